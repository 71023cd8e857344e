"""The index protocol and its registry: `hf_xlir/index/base.py`."""

import json

import numpy as np
import pytest
from datasets import Dataset

from hf_xlir.index import (
    BM25Index,
    LateInteractionIndex,
    SearchIndex,
    TokenEmbeddings,
    add_dense_index,
    base,
    load_index,
    register_index,
)
from hf_xlir.index.base import bind_index, check_index, index_attribute, index_class


IDS = ["a", "b", "c"]
PASSAGES = [{"id": id, "text": f"{id}{id} river"} for id in IDS]


def make_bm25():
    return BM25Index.build(PASSAGES, progress=False)


def make_dense():
    return add_dense_index(Dataset.from_list(PASSAGES), np.eye(3, dtype="float32")).get_index("dense")


def make_late_interaction():
    return LateInteractionIndex.build(TokenEmbeddings(np.eye(3, dtype="float32"), np.ones(3, dtype=int), IDS))


class Mine:
    """An index from outside the package: every passage whose text contains the query."""

    kind, queries, format = "mine", "text", "tests.mine"

    def __init__(self, passages):
        self.ids, self.passages = [each["id"] for each in passages], passages

    def search_batch(self, queries, k, allowed_ids=None):
        rows = np.full((len(queries), k), -1)
        for place, query in enumerate(queries):
            found = [row for row, each in enumerate(self.passages) if query in each["text"]][:k]
            rows[place, : len(found)] = found
        return (rows >= 0).astype(np.float32), rows

    def save(self, path):
        path.mkdir()
        (path / "manifest.json").write_text(json.dumps({"format": self.format, "passages": self.passages}))

    @classmethod
    def load(cls, path):
        return cls(json.loads((path / "manifest.json").read_text())["passages"])


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(base, "_CLASSES", dict(base._CLASSES))
    return register_index(Mine)


class TestProtocol:
    @pytest.mark.parametrize("make", [make_bm25, make_dense, make_late_interaction, lambda: Mine(PASSAGES)])
    def test_indexes_follow_it(self, make):
        index = make()
        assert isinstance(index, SearchIndex) and check_index(index) is index
        assert len(index.ids) == 3

    @pytest.mark.parametrize("make", [make_bm25, make_dense, make_late_interaction])
    def test_search_options_are_keywords_of_the_search(self, make):
        index = make()
        query = {"text": ["aa"], "vectors": np.eye(3)[:1], "token_vectors": np.eye(3)[None, :1]}[index.queries]
        options = dict.fromkeys(index_attribute(index, "search_options"))
        options |= {"preset": "exact"} if "preset" in options else {}
        _, rows = index.search_batch(query, 1, **options)
        assert np.asarray(rows).tolist() == [[0]]

    @pytest.mark.parametrize("other, what", [(object(), "search_batch"), (BM25Index, "class"), (None, "ids")])
    def test_something_else(self, other, what):
        with pytest.raises(ValueError, match=what):
            check_index(other)

    def test_unknown_queries(self):
        index = Mine(PASSAGES)
        index.queries = "images"
        with pytest.raises(ValueError, match="images"):
            check_index(index)

    def test_defaults(self):
        index = Mine(PASSAGES)
        assert index_attribute(index, "search_options") == () and index_attribute(index, "embedding_dim") is None
        assert index_attribute(make_dense(), "embedding_dim") == 3


class TestBind:
    def test_rows_of_the_dataset(self):
        dataset, index = Dataset.from_list(PASSAGES), make_late_interaction()
        bound = bind_index(index, dataset)
        index.remove(["a"])
        assert bound.search_batch(np.eye(3)[None, 1:2], 1)[1].tolist() == [[1]]  # still the dataset's row

    @pytest.mark.parametrize("make", [make_bm25, make_dense, make_late_interaction, lambda: Mine(PASSAGES)])
    def test_other_passages(self, make):
        index = make()
        bind_index(index, Dataset.from_list(PASSAGES))
        with pytest.raises(ValueError, match="Row 0"):
            bind_index(index, Dataset.from_list(PASSAGES[::-1]))


class TestRegistry:
    @pytest.mark.parametrize("make", [make_bm25, make_dense, make_late_interaction])
    def test_folders_open_by_their_format(self, make, tmp_path):
        index = make()
        index.save(tmp_path / "index")
        loaded = load_index(tmp_path / "index", verify=True)
        assert type(loaded) is type(index) is index_class(index.format) and loaded.ids == IDS

    def test_a_class_from_outside(self, registered, tmp_path):
        Mine(PASSAGES).save(tmp_path / "index")
        assert load_index(tmp_path / "index").search_batch(["bb"], 2)[1].tolist() == [[1, -1]]

    def test_the_same_definition_again(self, registered):
        again = type("Mine", (Mine,), {"__qualname__": Mine.__qualname__, "__module__": Mine.__module__})
        assert register_index(again) is index_class("tests.mine")

    @pytest.mark.parametrize(
        "members, what", [({"format": "hf_xlir.bm25_index"}, "BM25Index"), ({"save": None}, "save")]
    )
    def test_refused_classes(self, registered, members, what):
        with pytest.raises(ValueError, match=what):
            register_index(type("Other", (Mine,), members))

    def test_folders_without_an_index(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="load_index_from_hub"):
            load_index(tmp_path / "nothing")
        with pytest.raises(ValueError, match="manifest"):
            load_index(tmp_path)
        (tmp_path / "manifest.json").write_text('{"format": "some.other"}')
        with pytest.raises(ValueError, match="some.other"):
            load_index(tmp_path)
