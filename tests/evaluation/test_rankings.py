"""The order of rankings, and the texts of ranked passages."""

import pytest
from datasets import Dataset

from hf_xlir.evaluation import RankedPassages, drop_own_ids, rankings
from hf_xlir.evaluation.rankings import by_query, in_order, texts_by_id


RANKED = RankedPassages({"q": ["b", "10", "9"], "none": []}, {"q": [1.0, 1.0, 2.0], "none": []})


def test_equal_scores_are_ordered_by_id_as_text():
    ordered = ({"q": ["9", "10", "b"], "none": []}, {"q": [2.0, 1.0, 1.0], "none": []})
    assert in_order(RANKED) == ordered
    assert in_order({"q": {"b": 1, "9": 2, "10": 1}, "none": []}) == ordered
    assert in_order(in_order(RANKED)) == ordered


def test_lists_without_scores_keep_their_order():
    assert in_order({"q": ["b", "a"]}) == in_order(RankedPassages({"q": ["b", "a"]}, {})) == ({"q": ["b", "a"]}, {})
    assert in_order({}) == ({}, {})


def test_drop_own_ids():
    assert drop_own_ids({"a": ["b", "a", "c"], "b": ["a"]}) == ({"a": ["b", "c"], "b": ["a"]}, {})
    expected = {"a": ["b"]}, {"a": [1.0]}
    assert drop_own_ids(RankedPassages({"a": ["a", "b"]}, {"a": [2.0, 1.0]})) == expected
    assert drop_own_ids({"a": {"a": 2.0, "b": 1.0}}) == expected


@pytest.mark.parametrize(
    ("ranked", "message"),
    [
        (RankedPassages({"q": ["a", "b"]}, {"q": [1.0]}), "query `q` has 2 passages, but 1 scores"),
        (RankedPassages({"q": ["a"], "p": ["a"]}, {"q": [1.0]}), "query `p` has 1 passages, but 0 scores"),
        (RankedPassages({"q": ["a", "a"]}, {"q": [2.0, 1.0]}), "query `q` names the passage `a` twice"),
        ({"q": ["a", "a"]}, "query `q` names the passage `a` twice"),
        ({"q": "a"}, "must be a list of ids, got 'a'"),
        ({"q": {"a": float("nan")}}, "has a score that is NaN"),
        ({"q": ["a"], "p": {"a": 1.0}}, "query `p` has scores, but `q` has none"),
    ],
)
def test_errors(ranked, message):
    with pytest.raises(ValueError, match=message):
        in_order(ranked)


def test_forms():
    assert by_query({"q": ["a"]}) == {"q": ["a"]}
    assert by_query(RANKED) == {"q": {"b": 1.0, "10": 1.0, "9": 2.0}, "none": {}}


ROWS = [{"id": id, "text": f"Text {id}.", "vector": [1.0]} for id in "abcde"]


@pytest.mark.parametrize("passages", [ROWS, Dataset.from_list(ROWS)], ids=["list", "dataset"])
def test_texts_are_read_block_by_block(passages, monkeypatch):
    for size in (2, 5, 100):
        monkeypatch.setattr(rankings, "PASSAGES_PER_BLOCK", size)
        assert texts_by_id(["e", "a", "e"], passages) == {"a": "Text a.", "e": "Text e."}
        assert texts_by_id([], passages) == {}
        with pytest.raises(ValueError, match=r"1 ranked passages are not among `passages`, such as \['z'\]"):
            texts_by_id(["a", "z"], passages)
