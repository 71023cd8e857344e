"""The one order of rankings."""

import pytest

from hf_xlir.evaluation import RankedPassages
from hf_xlir.evaluation.rankings import by_query, drop_own_ids, in_order


RANKED = RankedPassages({"q": ["b", "10", "9"], "none": []}, {"q": [1.0, 1.0, 2.0], "none": []})


def test_equal_scores_are_ordered_by_id_as_text():
    ordered = ({"q": ["9", "10", "b"], "none": []}, {"q": [2.0, 1.0, 1.0], "none": []})
    assert in_order(RANKED) == ordered
    assert in_order({"q": {"b": 1, "9": 2, "10": 1}, "none": []}) == ordered
    assert in_order(in_order(RANKED)) == ordered


def test_without_scores_the_order_stays():
    assert in_order({"q": ["b", "a"]}) == in_order(RankedPassages({"q": ["b", "a"]}, {})) == ({"q": ["b", "a"]}, {})
    assert in_order({}) == ({}, {})


def test_the_querys_own_passage_is_dropped():
    assert drop_own_ids({"a": ["b", "a", "c"], "b": {"a": 1.0, "b": 2.0}}) == {"a": ["b", "c"], "b": {"a": 1.0}}
    assert drop_own_ids(RankedPassages({"a": ["a", "b"]}, {"a": [2.0, 1.0]})) == {"a": {"b": 1.0}}


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
