"""A dense index among some passages, on disk, and through the operations of a `Dataset`."""

import copy
import errno
import json
import pickle

import numpy as np
import pytest
from datasets import Dataset, Value, concatenate_datasets
from datasets.arrow_dataset import DatasetTransformationNotAllowedError

from hf_xlir.index import DenseIndex, LateInteractionIndex, TokenEmbeddings, add_dense_index
from hf_xlir.index.dense import index as dense_index
from hf_xlir.utils.storage import MANIFEST


N, DIM = 60, 8
QUERIES = np.random.default_rng(1).standard_normal((3, DIM)).astype(np.float32)


def vectors(n=N):
    return np.random.default_rng(0).standard_normal((n, DIM)).astype(np.float32)


def passages(n=N):
    return Dataset.from_dict({"id": [f"p{i}" for i in range(n)], "text": [f"text {i}" for i in range(n)]})


def ranking(allowed=None):
    """Rows from best to worst for each query."""
    return [
        [i for i in row if allowed is None or i in allowed] for row in np.argsort(-(QUERIES @ vectors().T)).tolist()
    ]


class TestAllowed:
    def test_ids_and_rows(self):
        dataset = add_dense_index(passages(), vectors())
        index = dataset.get_index("dense")
        allowed = [5, 3, 40, 41, 42]
        mask = np.zeros(N, dtype=bool)
        mask[allowed] = True
        for options in (
            {"allowed_ids": [f"p{i}" for i in allowed]},
            {"allowed_ids": (f"p{i}" for i in [*allowed, 3])},
            {"allowed_rows": allowed},
            {"allowed_rows": np.array([*allowed, 3])},
            {"allowed_rows": mask},
        ):
            scores, rows = index.search_batch(QUERIES, 10, **options)
            assert rows.tolist() == ranking(allowed)
            np.testing.assert_allclose(scores, np.take_along_axis(QUERIES @ vectors().T, rows, axis=1), atol=1e-5)
        _, examples = dataset.get_nearest_examples("dense", QUERIES[0], k=2, allowed_ids=["p3", "p5"])
        assert sorted(examples["id"]) == ["p3", "p5"]
        for nothing in ({"allowed_ids": []}, {"allowed_rows": []}):
            assert index.search_batch(QUERIES, 10, **nothing).total_indices.shape == (3, 0)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"allowed_ids": "p1"}, r"got one string: use `\['p1'\]`"),
            ({"allowed_ids": ["p1", "q"]}, r"1 ids are not in this index, such as \['q'\]"),
            ({"allowed_rows": [0, N]}, "must lie in 0 to 59, got 0 to 60"),
            ({"allowed_rows": [-1]}, "must lie in 0 to 59, got -1 to -1"),
            ({"allowed_rows": [0.5]}, "got float64"),
            ({"allowed_rows": np.ones(3, dtype=bool)}, "row numbers, or 60 booleans, got bool"),
            ({"allowed_ids": ["p1"], "allowed_rows": [1]}, "not both"),
        ],
    )
    def test_bad(self, options, message):
        index = add_dense_index(passages(), vectors()).get_index("dense")
        with pytest.raises(ValueError, match=message):
            index.search_batch(QUERIES, 3, **options)

    @pytest.mark.parametrize(
        "vectors, ids, message",
        [
            (np.ones((1, 4)), None, "`ids`.*got None"),
            (np.ones((1, 4)), [7], "strings, got 7"),
            ([np.ones(4), np.ones(5)], ["a", "b"], r"`b`.*\(5,\).*`a` \(4,\)"),
            (np.ones((1, 2, 4)), ["a"], "`LateInteractionIndex`"),
        ],
    )
    def test_vectors_and_ids_that_do_not_fit(self, vectors, ids, message):
        with pytest.raises(ValueError, match=message):
            DenseIndex.build(vectors, ids=ids)

    def test_without_ids(self):
        dataset = add_dense_index(passages().remove_columns("id"), vectors())
        assert dataset.search("dense", QUERIES[0], k=5, allowed_rows=[1, 2]).indices.tolist() == ranking([1, 2])[0]
        with pytest.raises(ValueError, match="no column `id`"):
            dataset.search("dense", QUERIES[0], allowed_ids=["p1"])


class TestOnDisk:
    @pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "HNSW8", "SQ8", "PQ4x4", "RaBitQ"])
    @pytest.mark.parametrize("memory_map", [True, False])
    def test_the_same_results(self, factory, memory_map, tmp_path):
        dataset = add_dense_index(passages(), vectors(), string_factory=factory)
        expected = dataset.search_batch("dense", QUERIES, k=7)
        dataset.get_index("dense").save(tmp_path / "index")
        loaded = DenseIndex.load(tmp_path / "index", memory_map=memory_map)
        again = passages()
        assert loaded.attach(again, "mine") is loaded and len(loaded) == N
        for found in (again.search_batch("mine", QUERIES, k=7), loaded.search_batch(QUERIES, 7)):
            assert np.array_equal(found.total_indices, expected.total_indices)
            assert np.array_equal(found.total_scores, expected.total_scores)
        loaded.save(tmp_path / "index")  # over the files that it is mapped from
        again = DenseIndex.load(tmp_path / "index")
        assert np.array_equal(again.search_batch(QUERIES, 7).total_scores, expected.total_scores)
        allowed = ["p1", "p2", "p3"]
        assert set(again.search(QUERIES[0], allowed_ids=allowed).indices) == {1, 2, 3}

    def test_metric_and_column_are_kept(self, tmp_path):
        dataset = passages().add_column("vector", vectors().tolist())
        index = add_dense_index(dataset, "vector", metric="l2").get_index("dense")
        index.save(tmp_path)
        loaded = DenseIndex.load(tmp_path)
        assert (loaded.metric, loaded.column, loaded.ids) == ("l2", "vector", dataset["id"][:])
        assert loaded.search(QUERIES[0]).scores.tolist() == index.search(QUERIES[0]).scores.tolist()
        assert (loaded.search(QUERIES[0]).scores < 0).all()

    def test_attaches_to_the_same_passages_only(self, tmp_path):
        add_dense_index(passages(), vectors()).get_index("dense").save(tmp_path / "ids")
        add_dense_index(passages().remove_columns("id"), vectors()).get_index("dense").save(tmp_path / "rows")
        index = DenseIndex.load(tmp_path / "ids")
        with pytest.raises(ValueError, match="Row 0 of the dataset is the passage `p59`"):
            index.attach(passages().select(range(N)[::-1]))
        with pytest.raises(ValueError, match="59 rows"):
            index.attach(passages(59))
        index = DenseIndex.load(tmp_path / "rows")
        assert index.ids is None
        with pytest.raises(ValueError, match="59 rows, but the index has 60"):
            index.attach(passages(59))
        dataset = passages()
        index.attach(dataset)
        assert dataset.list_indexes() == ["dense"]

    def test_damaged_or_foreign(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no folder"):
            DenseIndex.load(tmp_path / "absent")
        with pytest.raises(ValueError, match="no manifest.json"):
            DenseIndex.load(tmp_path)
        index = add_dense_index(passages(), vectors()).get_index("dense")
        index.save(tmp_path)
        manifest = json.loads((tmp_path / MANIFEST).read_text())
        changed = {**manifest, "num_passages": N + 1}
        (tmp_path / MANIFEST).write_text(json.dumps(changed))
        with pytest.raises(ValueError, match="not the index that its manifest describes"):
            DenseIndex.load(tmp_path)
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
        file = tmp_path / manifest["files"]["index.faiss"]["name"]
        content = file.read_bytes()
        file.write_bytes(content[:-10])
        with pytest.raises(ValueError, match="damaged"):
            DenseIndex.load(tmp_path)
        file.write_bytes(b"XXXX" + content[4:])
        with pytest.raises(ValueError, match="damaged"):
            DenseIndex.load(tmp_path)
        file.write_bytes(content)
        assert len(DenseIndex.load(tmp_path)) == N

    def test_a_disk_that_is_full_leaves_the_old_index(self, tmp_path, monkeypatch):
        index = add_dense_index(passages(), vectors()).get_index("dense")
        index.save(tmp_path)
        before = sorted(tmp_path.iterdir())

        def no_space(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(dense_index, "write_ids", no_space)
        with pytest.raises(OSError, match="No space left"):
            index.save(tmp_path)
        assert sorted(tmp_path.iterdir()) == before and len(DenseIndex.load(tmp_path)) == N

    def test_a_file_where_the_folder_should_be(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(OSError):
            add_dense_index(passages(), vectors()).get_index("dense").save(tmp_path / "file")


def attach(kind):
    dataset = Dataset.from_dict(
        {"id": ["a", "b", "c", "d"], "text": ["w", "x", "y", "z"], "lang": ["en"] * 2 + ["fi"] * 2}
    )
    if kind == "dense":
        return add_dense_index(dataset, np.eye(4, dtype=np.float32), "index")
    embeddings = TokenEmbeddings(np.eye(4, dtype=np.float32), np.ones(4, dtype=np.int64), ["a", "b", "c", "d"])
    LateInteractionIndex.build(embeddings).attach(dataset, "index")
    return dataset


# What the table in the documentation of `add_dense_index` says
OPERATIONS = {
    "kept": {
        "with_format": lambda dataset, path: dataset.with_format("numpy"),
        "set_format": lambda dataset, path: dataset.set_format("numpy"),
        "reset_format": lambda dataset, path: dataset.reset_format(),
        "with_transform": lambda dataset, path: dataset.with_transform(lambda rows: rows),
        "set_transform": lambda dataset, path: dataset.set_transform(lambda rows: rows),
        "remove_columns": lambda dataset, path: dataset.remove_columns("text"),
        "select_columns": lambda dataset, path: dataset.select_columns(["id"]),
        "rename_column": lambda dataset, path: dataset.rename_column("text", "body"),
        "rename_columns": lambda dataset, path: dataset.rename_columns({"text": "body"}),
        "flatten": lambda dataset, path: dataset.flatten(),
        "iter": lambda dataset, path: list(dataset.iter(2)) and None,
        "unique": lambda dataset, path: dataset.unique("id") and None,
        "to_dict": lambda dataset, path: dataset.to_dict() and None,
        "to_pandas": lambda dataset, path: dataset.to_pandas() is None or None,
        "to_csv": lambda dataset, path: dataset.to_csv(path) and None,
        "to_json": lambda dataset, path: dataset.to_json(path) and None,
        "to_parquet": lambda dataset, path: dataset.to_parquet(path) and None,
        "copy.deepcopy": lambda dataset, path: copy.deepcopy(dataset),
        "pickle": lambda dataset, path: pickle.loads(pickle.dumps(dataset)),
    },
    "dropped": {
        "map": lambda dataset, path: dataset.map(lambda row: row),
        "add_column": lambda dataset, path: dataset.add_column("n", [1, 2, 3, 4]),
        "add_item": lambda dataset, path: dataset.add_item({"id": "e", "text": "v", "lang": "en"}),
        "cast": lambda dataset, path: dataset.cast(dataset.features),
        "cast_column": lambda dataset, path: dataset.cast_column("text", Value("large_string")),
        "class_encode_column": lambda dataset, path: dataset.class_encode_column("lang"),
        "concatenate_datasets": lambda dataset, path: concatenate_datasets([dataset]),
        "repeat": lambda dataset, path: dataset.repeat(2),
        "flatten_indices": lambda dataset, path: dataset.flatten_indices(),
        "to_iterable_dataset": lambda dataset, path: dataset.to_iterable_dataset(),
    },
    "refused": {
        "select": lambda dataset, path: dataset.select([0]),
        "filter": lambda dataset, path: dataset.filter(lambda row: True),
        "shuffle": lambda dataset, path: dataset.shuffle(seed=0),
        "sort": lambda dataset, path: dataset.sort("id"),
        "shard": lambda dataset, path: dataset.shard(2, 0),
        "skip": lambda dataset, path: dataset.skip(1),
        "take": lambda dataset, path: dataset.take(1),
        "train_test_split": lambda dataset, path: dataset.train_test_split(0.5),
        "batch": lambda dataset, path: dataset.batch(2),
        "batched": lambda dataset, path: dataset.map(lambda rows: {"id": rows["id"][:1]}, batched=True),
        "save_to_disk": lambda dataset, path: dataset.save_to_disk(path),
    },
}


@pytest.mark.parametrize("kind", ["dense", "late interaction"])
class TestOperationsOfDatasets:
    query = np.array([[0, 1, 0, 0]], dtype=np.float32)

    @pytest.mark.parametrize("operation", OPERATIONS["kept"])
    def test_kept(self, kind, operation, tmp_path):
        dataset = attach(kind)
        after = OPERATIONS["kept"][operation](dataset, str(tmp_path / "out"))
        after = dataset if after is None else after
        assert after.list_indexes() == ["index"]
        _, examples = after.get_nearest_examples("index", self.query, k=1)
        assert list(examples["id"]) == ["b"]
        if kind == "dense" and operation != "pickle":
            assert after.get_index("index") is dataset.get_index("index")  # not a second one in memory

    @pytest.mark.parametrize("operation", OPERATIONS["dropped"])
    def test_dropped(self, kind, operation, tmp_path):
        dataset = attach(kind)
        after = OPERATIONS["dropped"][operation](dataset, str(tmp_path / "out"))
        assert not hasattr(after, "list_indexes") or after.list_indexes() == []
        assert dataset.list_indexes() == ["index"]

    @pytest.mark.parametrize("operation", OPERATIONS["refused"])
    def test_refused(self, kind, operation, tmp_path):
        with pytest.raises((DatasetTransformationNotAllowedError, ValueError), match="index"):
            OPERATIONS["refused"][operation](attach(kind), str(tmp_path / "out"))

    def test_save_faiss_index(self, kind, tmp_path):
        dataset = attach(kind)
        if kind == "dense":
            dataset.save_faiss_index("index", str(tmp_path / "index.faiss"))
            other = dataset.add_column("n", [1, 2, 3, 4])
            other.load_faiss_index("index", str(tmp_path / "index.faiss"))
            assert other.search("index", self.query, k=1).indices.tolist() == [1]
        else:
            with pytest.raises(ValueError, match="not a FaissIndex"):
                dataset.save_faiss_index("index", str(tmp_path / "index.faiss"))

    def test_the_documentation_says_so(self, kind):
        table = [line.split("|")[1:3] for line in add_dense_index.__doc__.splitlines() if line.count("|") == 3]
        for word, operations in OPERATIONS.items():
            named = " ".join(methods for methods, fate in table if word in fate)
            assert all(f"`{operation}" in named or f"`{operation}=" in named for operation in operations), word
