"""Retrieval for many queries against the one query at a time of `datasets`."""

import pickle

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir.index import LateInteractionIndex, TokenEmbeddings, add_dense_index, retrieval, retrieve


N, DIM = 60, 8


def vectors(n=N, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def passages(n=N):
    return Dataset.from_dict({"id": [f"p{i}" for i in range(n)], "text": [f"text {i}" for i in range(n)]})


class TestRetrieve:
    def test_equals_the_examples_of_datasets(self):
        dataset = add_dense_index(passages().add_column("vector", vectors().tolist()), "vector")
        queries = vectors(20, seed=1)
        scores, ids, rows = retrieve(dataset, "dense", torch.from_numpy(queries), k=7)
        expected_scores, examples = dataset.get_nearest_examples_batch("dense", queries, k=7)
        assert np.array_equal(scores, np.array(expected_scores))
        assert ids == [found["id"] for found in examples]
        assert rows == [
            [{"id": id, "text": text} for id, text in zip(found["id"], found["text"], strict=True)]
            for found in examples
        ]

    def test_reads_the_dataset_once(self, monkeypatch):
        dataset = add_dense_index(passages(), vectors())
        reads = []
        original = retrieval.gather
        monkeypatch.setattr(retrieval, "gather", lambda *args: reads.append(args[1]) or original(*args))
        monkeypatch.setattr(Dataset, "__getitem__", None)
        _, ids, rows = retrieve(dataset, "dense", vectors(20, seed=1), k=30)
        assert len(reads) == 1  # the ids
        assert [[row["id"] for row in found] for found in rows] == ids
        assert len(reads) == 2 and all(len(found) == len(set(found)) for found in reads)

    def test_columns(self):
        dataset = add_dense_index(passages(), vectors())
        query = vectors(1, seed=1)
        _, ids, rows = retrieve(dataset, "dense", query, k=2, columns=["text"])
        assert rows == [[{"text": f"text {id[1:]}"} for id in ids[0]]]
        _, ids, rows = retrieve(dataset, "dense", query, k=2, columns=[])
        assert len(ids[0]) == 2 and rows == [[{}, {}]]

    def test_an_index_of_datasets_that_finds_fewer_than_k(self):
        values, dataset = vectors(400), passages(400)
        dataset.add_faiss_index_from_external_arrays(values, "theirs", string_factory="IVF4,Flat", train_size=400)
        scores, ids, rows = retrieve(dataset, "theirs", vectors(5, seed=1), k=400)
        _, examples = dataset.get_nearest_examples_batch("theirs", vectors(5, seed=1), k=400)
        assert scores.shape == (5, 400)
        assert 0 < len(ids[0]) < 400 and ids == [found["id"] for found in examples]
        assert [[row["id"] for row in found] for found in rows] == ids

    def test_late_interaction(self):
        dataset = passages(3)
        embeddings = TokenEmbeddings(np.eye(4, dtype=np.float32), np.array([1, 2, 1]), ["p0", "p1", "p2"])
        LateInteractionIndex.build(embeddings).attach(dataset, "colbert")
        queries = torch.eye(4)[torch.tensor([[1, 2], [3, 0]])]
        mask = torch.tensor([[True, True], [True, False]])
        scores, ids, rows = retrieve(dataset, "colbert", queries, k=1, query_mask=mask)
        assert scores.tolist() == [[2.0], [1.0]] and ids == [["p1"], ["p2"]]
        assert rows[0][0]["text"] == "text 1"

    def test_bad_input(self):
        dataset = add_dense_index(passages(), vectors())
        with pytest.raises(ValueError, match=r"no index 'colbert'; it has \['dense'\]"):
            retrieve(dataset, "colbert", vectors(1))
        with pytest.raises(ValueError, match=r"no columns \['body'\]"):
            retrieve(dataset, "dense", vectors(1), columns=["body"])
        with pytest.raises(TypeError, match="allowed"):
            retrieve(dataset, "dense", vectors(1), allowed=["p1"])

    def test_allowed_ids_and_filter(self):
        values, queries = vectors(), vectors(3, seed=1)
        dataset = add_dense_index(
            passages().add_column("n", list(range(N))).add_column("vector", values.tolist()), "vector"
        )
        scores = queries.astype(np.float64) @ values.T
        even = [[f"p{i}" for i in np.argsort(-row) if i % 2 == 0] for row in scores]
        seen = set()

        def is_even(row):
            seen.update(row)
            return row["n"] % 2 == 0

        assert retrieve(dataset, "dense", queries, k=50, filter=is_even)[1] == even
        assert seen == {"id", "text", "n"}
        small = [f"p{i}" for i in range(10)]
        allowed = retrieve(dataset, "dense", queries, k=50, allowed_ids=small, filter=is_even)
        assert allowed[1] == [[id for id in ids if id in small] for ids in even] and allowed[0].shape == (3, 5)
        nothing = retrieve(dataset, "dense", queries, k=5, filter=lambda row: False)
        assert nothing[0].shape == (3, 0) and nothing[1] == [[], [], []] == nothing[2]

    def test_filter_of_late_interaction(self):
        dataset = passages(4)
        embeddings = TokenEmbeddings(np.eye(4, dtype=np.float32), np.ones(4, dtype=np.int64), dataset["id"][:])
        LateInteractionIndex.build(embeddings).attach(dataset, "colbert")
        query = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]])
        found = retrieve(dataset, "colbert", query, k=2, filter=lambda row: row["text"] != "text 0")
        assert found[1] == [["p1", "p2"]]

    def test_rows_are_made_when_they_are_looked_at(self, monkeypatch):
        made = []
        original = retrieval.get_formatter
        monkeypatch.setattr(retrieval, "get_formatter", lambda *args, **kw: made.append(args) or original(*args, **kw))
        dataset = add_dense_index(passages(3), np.eye(3, dtype=np.float32))
        rows = retrieve(dataset, "dense", np.array([[3.0, 2, 1], [1, 2, 3]]), k=2)[2]
        assert len(rows) == 2 and not made
        expected = [[{"id": f"p{i}", "text": f"text {i}"} for i in found] for found in ((0, 1), (2, 1))]
        assert rows == expected and expected == rows and rows == rows and rows != expected[:1]
        assert list(rows) == expected and rows[:1] == expected[:1] and rows[-1] == expected[1]
        assert repr(rows) == repr(expected)
        assert type(pickle.loads(pickle.dumps(rows))) is list and pickle.loads(pickle.dumps(rows)) == expected
        assert rows[0][1] is rows[1][1] and len(made) == 1
        rows[0][0]["text"] = "changed"
        assert rows[0][0]["text"] == "changed"
        with pytest.raises(IndexError):
            rows[2]

    def test_after_a_selection_and_in_several_chunks(self, tmp_path):
        features = Features({"id": Value("string"), "lang": ClassLabel(names=["en", "fi"]), "tags": [Value("string")]})
        stored = Dataset.from_dict(
            {"id": [f"p{i}" for i in range(2500)], "lang": [i % 2 for i in range(2500)], "tags": [["x"]] * 2500},
            features,
        )
        stored.save_to_disk(tmp_path / "passages")
        dataset = Dataset.load_from_disk(tmp_path / "passages").shuffle(seed=0).select(range(2000))
        values = vectors(2000)
        add_dense_index(dataset, values)
        queries = vectors(4, seed=1)
        _, ids, rows = retrieve(dataset, "dense", queries, k=30)
        best = np.argsort(-(queries.astype(np.float64) @ values.T), axis=1)[:, :30]
        assert ids == [[dataset[int(i)]["id"] for i in found] for found in best]
        assert rows == [[dataset[int(i)] for i in found] for found in best]


@given(st.lists(st.integers(0, 99)), st.integers(100, 3_000))
def test_distinct_rows(rows, num_rows):
    found, inverse = retrieval._distinct(np.array(rows, dtype=np.int64), num_rows)
    assert found.tolist() == sorted(set(rows)) and found[inverse].tolist() == rows
