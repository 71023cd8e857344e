"""Rank metrics on literal cases and against their definitions spelled out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.evaluation import (
    RankedPassages,
    average_precision,
    ndcg_at_k,
    recall_at_k,
    reciprocal_rank,
    success_at_k,
)


RANKINGS = {"q1": ["a", "b", "c", "d"], "q2": ["x", "y"], "unjudged": ["a"]}
RELEVANCE = {"q1": ["b", "d", "z"], "q2": ["x"], "q3": ["a"]}


def test_recall_is_the_share_of_relevant_passages_found():
    assert recall_at_k(RANKINGS, RELEVANCE, 1) == pytest.approx((0 + 1 + 0) / 3)
    assert recall_at_k(RANKINGS, RELEVANCE, 2) == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert recall_at_k(RANKINGS, RELEVANCE, 100) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert recall_at_k(RANKINGS, RELEVANCE, 4, per_query=True) == pytest.approx({"q1": 2 / 3, "q2": 1, "q3": 0})


def test_success_is_any_relevant_passage():
    assert success_at_k(RANKINGS, RELEVANCE, 1, per_query=True) == {"q1": 0, "q2": 1, "q3": 0}
    assert success_at_k(RANKINGS, RELEVANCE, 2) == pytest.approx(2 / 3)


def test_reciprocal_rank():
    assert reciprocal_rank(RANKINGS, RELEVANCE) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert reciprocal_rank(RANKINGS, RELEVANCE, k=1) == pytest.approx(1 / 3)


def test_ndcg():
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    best = 1 + 1 / math.log2(3) + 1 / 2
    assert ndcg_at_k(RANKINGS, RELEVANCE, 10, per_query=True) == pytest.approx({"q1": gain / best, "q2": 1, "q3": 0})
    graded = ndcg_at_k({"q": ["a", "b", "c"]}, {"q": {"a": 1, "b": 3, "c": 0, "d": 2}}, 2)
    assert graded == pytest.approx((1 + 3 / math.log2(3)) / (3 + 2 / math.log2(3)))


def test_average_precision():
    values = {"q1": (1 / 2 + 2 / 4) / 3, "q2": 1, "q3": 0}
    assert average_precision(RANKINGS, RELEVANCE, per_query=True) == pytest.approx(values)
    assert average_precision(RANKINGS, RELEVANCE) == pytest.approx((1 / 3 + 1) / 3)
    assert average_precision(RANKINGS, RELEVANCE, k=2) == pytest.approx((1 / 6 + 1) / 3)


def test_ranked_passages_are_ordered_by_their_scores():
    ranked = RankedPassages({"q": ["b", "a", "c"]}, {"q": [1.0, 1.0, 0.5]})
    assert reciprocal_rank(ranked, {"q": ["a"]}) == 1
    assert reciprocal_rank(RankedPassages(ranked.rankings, {}), {"q": ["a"]}) == 1 / 2


def test_equal_scores_are_ranked_by_id():
    rankings = {"q": {"c": 1.0, "a": 1.0, "b": 1.0, "z": 2.0}}
    assert reciprocal_rank(rankings, {"q": ["a"]}) == 1 / 2
    assert reciprocal_rank(rankings, {"q": ["c"]}) == 1 / 4


def test_scores_closer_than_float32_keep_their_order():
    rankings = {"q": {"a": 1e9, "b": 1e9 + 1, "c": 1e9 - 1}}
    assert reciprocal_rank(rankings, {"q": ["b"]}) == 1
    assert reciprocal_rank(rankings, {"q": ["a"]}) == 1 / 2


def test_a_long_ranking_keeps_its_order():
    ids = [f"p{i}" for i in range(5000)]
    assert reciprocal_rank({"q": ids}, {"q": ["p4321"]}) == pytest.approx(1 / 4322)


def test_grades_of_zero_are_not_relevant():
    assert recall_at_k({"q": ["a", "b"]}, {"q": {"a": 0, "b": 1, "c": 2}}, 2) == 0.5


def test_no_ranking_at_all_is_zero():
    for metric in (recall_at_k, success_at_k, reciprocal_rank, ndcg_at_k, average_precision):
        assert metric({}, RELEVANCE, k=5) == 0
        assert metric({"q1": [], "q2": {}}, RELEVANCE, k=5, per_query=True) == {"q1": 0, "q2": 0, "q3": 0}


IDS = [f"p{i}" for i in range(8)]
QUERIES = ["q0", "q1", "q2"]


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(QUERIES), st.permutations(IDS).flatmap(lambda p: st.just(p[: len(p) // 2 + 2]))),
    st.dictionaries(
        st.sampled_from(QUERIES),
        st.dictionaries(st.sampled_from(IDS), st.integers(1, 3), min_size=1),
        min_size=3,
    ),
    st.integers(1, 10),
)
def test_all_equal_their_definitions(rankings, relevance, k):
    def ideal(grades):
        return sum(g / math.log2(i + 2) for i, g in enumerate(sorted(grades, reverse=True)[:k]))

    expected = {name: [] for name in ("recall", "success", "rr", "ndcg", "ap")}
    for query, grades in relevance.items():
        top = rankings.get(query, [])[:k]
        hits = [i for i, id in enumerate(top) if id in grades]
        expected["recall"].append(len(hits) / len(grades))
        expected["success"].append(float(bool(hits)))
        expected["rr"].append(1 / (hits[0] + 1) if hits else 0)
        expected["ndcg"].append(sum(grades[top[i]] / math.log2(i + 2) for i in hits) / ideal(grades.values()))
        expected["ap"].append(sum((n + 1) / (i + 1) for n, i in enumerate(hits)) / len(grades))
    means = {name: sum(values) / len(values) for name, values in expected.items()}
    assert recall_at_k(rankings, relevance, k) == pytest.approx(means["recall"])
    assert success_at_k(rankings, relevance, k) == pytest.approx(means["success"])
    assert reciprocal_rank(rankings, relevance, k) == pytest.approx(means["rr"])
    assert ndcg_at_k(rankings, relevance, k) == pytest.approx(means["ndcg"])
    assert average_precision(rankings, relevance, k) == pytest.approx(means["ap"])
    assert average_precision(rankings, relevance, 10) == pytest.approx(average_precision(rankings, relevance))


ALL = (recall_at_k, success_at_k, reciprocal_rank, ndcg_at_k, average_precision)


@pytest.mark.parametrize("metric", ALL)
def test_a_grade_below_0_is_as_good_as_0(metric):
    rankings = {"q": ["bad", "good", "unknown", "best"]}
    values = [metric(rankings, {"q": {"bad": grade, "good": 1, "best": 3}}, 4) for grade in (-2, -1, 0)]
    assert values[0] == values[1] == values[2] == metric(rankings, {"q": {"good": 1, "best": 3}}, 4) > 0


@pytest.mark.parametrize("metric", ALL)
def test_grades_of_numpy_and_whole_floats_are_those_numbers(metric):
    for two in (np.int64(2), np.float32(2), 2.0):
        assert metric(RANKINGS, {"q1": {"a": two, "b": True}}, 5) == metric(RANKINGS, {"q1": {"a": 2, "b": 1}}, 5)


@pytest.mark.parametrize("metric", ALL)
def test_what_is_missing_counts_as_0_and_what_is_not_judged_not_at_all(metric):
    relevance = {"q1": ["a"], "q2": ["a"], "q3": ["a"], "q4": ["a"]}
    run = {"q1": ["a"], "q2": [], "q4": ["b"], "q9": ["a", "a"]}
    assert metric(run, relevance, 5) == 0.25
    assert metric(run, relevance, 5, per_query=True) == {"q1": 1.0, "q2": 0.0, "q3": 0.0, "q4": 0.0}
    assert metric({}, relevance, 5) == 0.0


@pytest.mark.parametrize(
    ("rankings", "relevance", "k", "message"),
    [
        (RANKINGS, {}, 5, "`relevance` is empty"),
        (RANKINGS, {"q1": []}, 5, "Query `q1` has no relevant passage"),
        (RANKINGS, {"q1": {"a": 0}}, 5, "Query `q1` has no relevant passage"),
        (RANKINGS, {"q1": "a"}, 5, "must be a list of ids, got 'a'"),
        ({"q1": "a"}, RELEVANCE, 5, "must be a list of ids, got 'a'"),
        ({"q1": ["a", "b", "a"]}, RELEVANCE, 5, "names the passage `a` twice"),
        ({"q1": {"a": float("nan")}}, RELEVANCE, 5, "score that is NaN"),
        ({1: ["a"]}, RELEVANCE, 5, "No ranking belongs to a judged query"),
        ({1: ["a"]}, {1: ["a"]}, 5, "`relevance` has the id 1"),
        ({"q1": ["a", 7]}, {"q1": ["a"]}, 5, "ranking of query `q1` has the id 7: ids are strings"),
        ({"q1": {7: 1.0}}, {"q1": ["7"]}, 5, "ranking of query `q1` has the id 7: ids are strings"),
        ({"q1": ["7"]}, {"q1": ["a", 7]}, 5, "`relevance` of query `q1` has the id 7: ids are strings"),
        ({"q1": ["7"]}, {"q1": {7: 1}}, 5, "`relevance` of query `q1` has the id 7: ids are strings"),
        ({"q1": {"a": "1.5"}}, RELEVANCE, 5, "score that is not a number"),
        ({"q1": {"a": None}}, RELEVANCE, 5, "score that is not a number"),
        ({"q1": None}, RELEVANCE, 5, "The ranking of query `q1` must be a list of ids, got None"),
        ([["a"]], RELEVANCE, 5, "got a `list`"),
        (RANKINGS, {"q1": {"a": 0.5}}, 5, "the grade 0.5 for `a`: grades are whole numbers, at most 1,000,000"),
        (RANKINGS, {"q1": {"a": "1"}}, 5, "query `q1` has the grade '1' for `a`"),
        (RANKINGS, {"q1": {"a": float("nan")}}, 5, "has the grade nan for `a`"),
        (RANKINGS, {"q1": {"a": None}}, 5, "has the grade None for `a`"),
        (RANKINGS, {"q1": {"a": 10**12}}, 5, "has the grade 1000000000000 for `a`"),  # 0 in trec_eval's 32 bits
        (RANKINGS, {"q1": {"a": 1, "b": 1 - 2**32}}, 5, "has the grade -4294967295 for `b`"),  # and this one 1
        (RANKINGS, RELEVANCE, 0, "positive integer, got 0"),
        (RANKINGS, RELEVANCE, 2.5, "positive integer, got 2.5"),
    ],
)
def test_bad_input(rankings, relevance, k, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(rankings, relevance, k)


def test_k_is_required_where_it_has_no_natural_default():
    with pytest.raises(TypeError):
        recall_at_k(RANKINGS, RELEVANCE)
