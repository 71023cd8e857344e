"""The dense index against plain NumPy."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value

from hf_xlir.index import DenseEmbeddings, DenseIndex, add_dense_index
from hf_xlir.index.dense import faiss_index
from hf_xlir.index.dense.faiss_index import import_faiss
from hf_xlir.index.dense.index import _Vectors


N, DIM = 60, 8


def vectors(n=N, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def passages(n=N):
    return Dataset.from_dict({"id": [f"p{i}" for i in range(n)], "text": [f"text {i}" for i in range(n)]})


def inner_products(queries, values):
    return queries.astype(np.float64) @ values.astype(np.float64).T


class TestAddDenseIndex:
    @pytest.mark.parametrize("kind", ["array", "tensor", "float16", "embeddings", "column"])
    def test_scores_are_inner_products_highest_first(self, kind):
        values, dataset = vectors(), passages()
        source = {
            "array": values,
            "tensor": torch.from_numpy(values),
            "float16": values.astype(np.float16),
            "embeddings": DenseEmbeddings(values, dataset["id"][:]),
            "column": "vector",
        }[kind]
        if kind == "float16":
            values = source
        if kind == "column":
            dataset = dataset.add_column("vector", values.tolist())
        assert add_dense_index(dataset, source) is dataset
        query = vectors(1, seed=1)[0]
        expected = inner_products(query[None], values)[0]
        scores, examples = dataset.get_nearest_examples("dense", query, k=5)
        best = np.argsort(-expected)[:5]
        assert examples["id"] == [f"p{i}" for i in best]
        np.testing.assert_allclose(scores, expected[best], atol=1e-4)

    def test_long_vectors_win_as_inner_product_has_it(self):
        dataset = add_dense_index(passages(2), np.array([[1.0, 0.0], [5.0, 5.0]], dtype=np.float32))
        scores, examples = dataset.get_nearest_examples("dense", np.array([1.0, 0.0]), k=2)
        assert examples["id"] == ["p1", "p0"] and list(scores) == [5.0, 1.0]

    def test_l2_scores_are_negated_distances(self):
        values = vectors()
        dataset = add_dense_index(passages(), values, "near", metric="l2")
        query = vectors(1, seed=1)[0]
        distances = ((values.astype(np.float64) - query) ** 2).sum(axis=1)
        scores, examples = dataset.get_nearest_examples("near", query, k=4)
        best = np.argsort(distances)[:4]
        assert examples["id"] == [f"p{i}" for i in best]
        np.testing.assert_allclose(scores, -distances[best], atol=1e-4)

    def test_batch(self):
        values, queries = vectors(), vectors(3, seed=1)
        dataset = add_dense_index(passages(), values)
        scores, examples = dataset.get_nearest_examples_batch("dense", queries, k=3)
        for i, expected in enumerate(inner_products(queries, values)):
            best = np.argsort(-expected)[:3]
            assert examples[i]["id"] == [f"p{j}" for j in best]
            np.testing.assert_allclose(scores[i], expected[best], atol=1e-4)

    def test_fixed_size_column(self):
        values = vectors()
        features = Features({"id": Value("string"), "vector": List(Value("float32"), length=DIM)})
        dataset = Dataset.from_dict({"id": [f"p{i}" for i in range(N)], "vector": values}, features=features)
        add_dense_index(dataset, "vector")
        _, examples = dataset.get_nearest_examples("dense", values[7] * 100, k=1)
        assert examples["id"] == [f"p{inner_products(values[7:8], values)[0].argmax()}"]

    def test_factory_that_trains_and_its_search_parameters(self):
        faiss = import_faiss()
        values = vectors(400)
        dataset = add_dense_index(passages(400), values, string_factory="IVF4,Flat")
        query = vectors(1, seed=1)[0]
        every_cell = faiss.SearchParametersIVF(nprobe=4)
        scores, examples = dataset.get_nearest_examples("dense", query, k=10, params=every_cell)
        assert examples["id"] == [f"p{i}" for i in np.argsort(-inner_products(query[None], values)[0])[:10]]
        one_cell = faiss.SearchParametersIVF(nprobe=1)
        few = dataset.search("dense", query, k=10, params=one_cell).indices  # of one cell, whose numbers are close
        assert len(few) == 10 and set(few) != set(np.argsort(-inner_products(query[None], values)[0])[:10])

    def test_kinds_of_queries(self):
        dataset = add_dense_index(passages(), vectors())
        query = vectors(1, seed=1)[0]
        expected = dataset.search("dense", query, k=5).indices.tolist()
        for same in (query[None], query.astype(np.float64), torch.from_numpy(query).requires_grad_(), query.tolist()):
            assert dataset.search("dense", same, k=5).indices.tolist() == expected

    def test_k_beyond_the_size_returns_all(self):
        dataset = add_dense_index(passages(3), vectors(3))
        scores, examples = dataset.get_nearest_examples("dense", vectors(1)[0], k=50)
        assert len(scores) == len(examples["id"]) == 3

    def test_saved_by_datasets_itself(self, tmp_path):
        dataset = add_dense_index(passages(), vectors())
        dataset.save_faiss_index("dense", str(tmp_path / "index.faiss"))
        other = passages()
        other.load_faiss_index("dense", str(tmp_path / "index.faiss"))
        query = vectors(1, seed=1)[0]
        assert list(other.search("dense", query).indices) == list(dataset.search("dense", query).indices)

    @pytest.mark.parametrize(
        ("source", "options", "message"),
        [
            (vectors(3), {}, r"\(60, embedding_dim\), got \(3, 8\)"),
            (vectors().ravel(), {}, r"got \(480,\)"),
            ([[1.0]] * N, {}, "got list"),
            ("absent", {}, "no column 'absent'"),
            ("text", {}, "must hold one vector per row"),
            ("ragged", {}, "must hold one vector per row, all of one length"),
            (DenseEmbeddings(vectors(), [f"q{i}" for i in range(N)]), {}, "Row 0 of the dataset is the passage `p0`"),
            (np.full((N, DIM), np.nan), {}, "vector of row 0 has a NaN"),
            (vectors(), {"metric": "cosine"}, "`metric`.*'cosine'"),
            (vectors(), {"string_factory": "Nonsense"}, "cannot make an index 'Nonsense' of 8 dimensions"),
        ],
    )
    def test_bad_input(self, source, options, message):
        dataset = passages().add_column("ragged", [[1.0] * (1 + i % 2) for i in range(N)])
        with pytest.raises(ValueError, match=message):
            add_dense_index(dataset, source, **options)

    def test_vectors_are_read_in_blocks(self, tmp_path, monkeypatch):
        values = vectors()
        np.save(tmp_path / "values.npy", values)
        mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
        reads = []
        read = _Vectors.read
        monkeypatch.setattr(_Vectors, "read", lambda self, rows: reads.append(rows.tolist()) or read(self, rows))
        monkeypatch.setattr(faiss_index, "ROWS_PER_BLOCK", 25)
        monkeypatch.setattr(faiss_index, "MOST_TRAINING_ROWS", 20)
        dataset = add_dense_index(passages(), DenseEmbeddings(mapped, passages()["id"][:]), string_factory="IVF2,Flat")
        assert [len(rows) for rows in reads] == [20, 25, 25, 10] and sum(reads[1:], []) == list(range(N))
        index = dataset.get_index("dense").faiss_index
        index.make_direct_map()
        assert np.array_equal(index.reconstruct_batch(np.arange(N)), values)

    def test_bfloat16(self):
        values = torch.from_numpy(vectors()).bfloat16()
        dataset = add_dense_index(passages(), values)
        stored = dataset.get_index("dense").faiss_index.reconstruct_batch(np.arange(N))
        assert np.array_equal(stored, values.float().numpy())

    def test_ids_that_appear_twice(self):
        dataset = Dataset.from_dict({"id": ["a", "b", "a"]})
        with pytest.raises(ValueError, match="Two rows of the dataset have the id `a`"):
            add_dense_index(dataset, vectors(3))

    def test_a_vector_that_is_missing_in_a_column(self):
        dataset = Dataset.from_dict({"id": ["a", "b"], "vector": [[1.0, 2.0], None]})
        with pytest.raises(ValueError, match="must hold one vector per row"):
            add_dense_index(dataset, "vector")

    def test_empty_dataset(self):
        with pytest.raises(ValueError, match="empty"):
            add_dense_index(passages(0), np.zeros((0, 3)))

    @pytest.mark.parametrize(
        ("query", "k", "message"),
        [
            (np.zeros(5), 3, "5 dimensions, the index has 8"),
            (np.zeros((2, DIM)), 3, "`search_batch`"),
            (np.full(DIM, np.inf), 3, "NaN or infinite"),
            (np.zeros(DIM), 0, "positive integer, got 0"),
        ],
    )
    def test_bad_query(self, query, k, message):
        dataset = add_dense_index(passages(), vectors())
        with pytest.raises(ValueError, match=message):
            dataset.get_nearest_examples("dense", query, k=k)


class TestBuild:
    @pytest.mark.parametrize("kind", ["array", "float64", "tensor", "bfloat16", "list", "embeddings"])
    def test_equals_add_dense_index(self, kind):
        values, ids = vectors(), passages()["id"][:]
        source = {
            "array": values,
            "float64": values.astype(np.float64),
            "tensor": torch.from_numpy(values),
            "bfloat16": torch.from_numpy(values).bfloat16(),
            "list": [torch.from_numpy(each) for each in values],
            "embeddings": DenseEmbeddings(values, ids),
        }[kind]
        index = DenseIndex.build(source, ids=None if kind == "embeddings" else ids)
        assert index.ids == ids and index.metric == "inner_product" and index.embedding_dim == DIM
        expected = add_dense_index(passages(), values).get_index("dense").search_batch(vectors(3, seed=1), 5)
        found = index.search_batch(vectors(3, seed=1), 5)
        if kind != "bfloat16":
            assert np.array_equal(found[1], expected[1])
        np.testing.assert_allclose(found[0], expected[0], atol=5e-2 if kind == "bfloat16" else 1e-6)
        assert index.attach(passages()) is index

    def test_settings_reach_faiss(self):
        index = DenseIndex.build(
            vectors(400), [str(row) for row in range(400)], string_factory="IVF4,Flat", metric="l2", n_probe=3
        )
        assert index.metric == "l2" and index.faiss_index.nprobe == 3 and len(index) == 400

    @pytest.mark.parametrize(
        "embeddings, ids, what",
        [
            (vectors(3), None, "`ids`"),
            (vectors(3), ["a", "b"], "2 texts"),
            (vectors(3), ["a", "b", "a"], "`a` appears twice"),
            (vectors(3), [1, 2, 3], "strings"),
            (DenseEmbeddings(vectors(1), ["a"]), ["a"], "leave `ids` out"),
            ([vectors(2), vectors(1)], ["a", "b"], "LateInteractionIndex"),
            (np.zeros((0, DIM)), [], "no passages"),
            ("vectors", ["a"], "str"),
            (np.full((1, DIM), np.inf), ["a"], "NaN or infinite"),
        ],
    )
    def test_bad_input(self, embeddings, ids, what):
        with pytest.raises(ValueError, match=what):
            DenseIndex.build(embeddings, ids=ids)
