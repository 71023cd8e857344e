"""Rank metrics: literal cases, their definitions spelled out, and several measures at once by language."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.evaluation import (
    RankedPassages,
    answer_recall_at_k,
    average_precision,
    evaluate_rankings,
    ndcg_at_k,
    parse_measures,
    recall_at_k,
    reciprocal_rank,
    success_at_k,
)
from hf_xlir.evaluation.measures import means_by_group


ALL = (recall_at_k, success_at_k, reciprocal_rank, ndcg_at_k, average_precision)
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


def test_scores_order_passages_and_equal_scores_are_ordered_by_id():
    rankings = {"q": {"c": 1.0, "a": 1.0, "b": 1.0, "z": 2.0}}
    assert reciprocal_rank(rankings, {"q": ["a"]}) == 1 / 2
    assert reciprocal_rank(rankings, {"q": ["c"]}) == 1 / 4
    ranked = RankedPassages({"q": ["b", "a", "c"]}, {"q": [1.0, 1.0, 0.5]})
    assert reciprocal_rank(ranked, {"q": ["a"]}) == 1
    assert reciprocal_rank(RankedPassages(ranked.rankings, {}), {"q": ["a"]}) == 1 / 2
    closer_than_float32 = {"q": {"a": 1e9, "b": 1e9 + 1, "c": 1e9 - 1}}
    assert reciprocal_rank(closer_than_float32, {"q": ["b"]}) == 1
    assert reciprocal_rank(closer_than_float32, {"q": ["a"]}) == 1 / 2


def test_a_long_ranking_keeps_its_order():
    ids = [f"p{i}" for i in range(5000)]
    assert reciprocal_rank({"q": ids}, {"q": ["p4321"]}) == pytest.approx(1 / 4322)


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


@pytest.mark.parametrize("metric", ALL)
def test_grades(metric):
    """A grade of 0 or below is not relevant; whole numbers of numpy and floats count as integers."""
    rankings = {"q": ["bad", "good", "unknown", "best"]}
    expected = metric(rankings, {"q": {"good": 1, "best": 3}}, 4)
    for grade in (-2, 0):
        assert metric(rankings, {"q": {"bad": grade, "good": 1, "best": 3}}, 4) == expected > 0
    for two in (np.int64(2), np.float32(2), 2.0):
        assert metric(RANKINGS, {"q1": {"a": two, "b": True}}, 5) == metric(RANKINGS, {"q1": {"a": 2, "b": 1}}, 5)


@pytest.mark.parametrize("metric", ALL)
def test_a_missing_ranking_counts_as_0_and_an_unjudged_one_is_ignored(metric):
    relevance = {"q1": ["a"], "q2": ["a"], "q3": ["a"], "q4": ["a"]}
    run = {"q1": ["a"], "q2": [], "q4": ["b"], "q9": ["a", "a"]}
    assert metric(run, relevance, 5) == 0.25
    assert metric(run, relevance, 5, per_query=True) == {"q1": 1.0, "q2": 0.0, "q3": 0.0, "q4": 0.0}
    assert metric({}, relevance, 5) == metric({"q1": [], "q2": {}}, relevance, 5) == 0.0


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
        ({"q1": ["7"]}, {"q1": ["a", 7]}, 5, "`relevance` of query `q1` has the id 7: ids are strings"),
        ({"q1": {"a": "1.5"}}, RELEVANCE, 5, "score that is not a number"),
        ({"q1": {"a": None}}, RELEVANCE, 5, "score that is not a number"),
        ({"q1": None}, RELEVANCE, 5, "The ranking of query `q1` must be a list of ids, got None"),
        ([["a"]], RELEVANCE, 5, "got a `list`"),
        (RANKINGS, {"q1": {"a": 0.5}}, 5, "the grade 0.5 for `a`: grades are whole numbers, at most 1,000,000"),
        (RANKINGS, {"q1": {"a": "1"}}, 5, "query `q1` has the grade '1' for `a`"),
        (RANKINGS, {"q1": {"a": 10**12}}, 5, "has the grade 1000000000000 for `a`"),  # 0 in trec_eval's 32 bits
        (RANKINGS, {"q1": {"a": 1, "b": 1 - 2**32}}, 5, "has the grade -4294967295 for `b`"),  # and this one 1
        (RANKINGS, RELEVANCE, 0, "positive integer, got 0"),
        (RANKINGS, RELEVANCE, 2.5, "positive integer, got 2.5"),
    ],
)
def test_bad_rankings_and_judgements(rankings, relevance, k, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(rankings, relevance, k)


def test_k_is_required_unless_whole_rankings_are_measured():
    with pytest.raises(TypeError):
        recall_at_k(RANKINGS, RELEVANCE)


# Several measures at once


RUN = {"q1": ["a", "b", "c"], "q2": ["c", "a"], "q3": {"b": 1.0, "a": 1.0}, "unjudged": ["a"]}
JUDGED = {"q1": {"b": 2, "c": 1}, "q2": ["c", "z"], "q3": ["b"], "q4": ["a"]}
GROUPS = {"q1": "fi", "q2": "fi", "q3": "ko", "q4": "ko", "unjudged": "ja"}
PASSAGES = [
    {"id": "a", "title": "Seine", "text": "Rome lies on the Tiber."},
    {"id": "b", "title": "", "text": "Paris lies on the Seine."},
    {"id": "c", "title": "", "text": "Oslo."},
]
ANSWERS = {"q1": ["Seine"], "q2": ["seine", "Oslo"], "q4": ["Tiber"]}


@pytest.mark.parametrize(
    ("name", "metric", "k"),
    [
        ("R@2", recall_at_k, 2),
        ("Success@1", success_at_k, 1),
        ("RR", reciprocal_rank, None),
        ("RR@1", reciprocal_rank, 1),
        ("nDCG@10", ndcg_at_k, 10),
        ("MAP", average_precision, None),
        ("MAP@1", average_precision, 1),
    ],
)
def test_measures_equal_the_single_metrics(name, metric, k):
    for measures in ([name], ["RR", "R@1", name, "nDCG@3"]):
        assert evaluate_rankings(RUN, JUDGED, measures)[name] == {"mean": metric(RUN, JUDGED, k)}
        per_query = evaluate_rankings(RUN, JUDGED, measures, per_query=True)
        assert list(per_query) == list(dict.fromkeys(measures))
        assert per_query[name] == metric(RUN, JUDGED, k, per_query=True)


def test_by_language():
    values = evaluate_rankings(RUN, JUDGED, ["RR", "R@1"], GROUPS)
    assert values == {
        "RR": {"fi": 0.75, "ko": 0.25, "macro": 0.5, "mean": 0.5},
        "R@1": {"fi": 0.25, "ko": 0.0, "macro": 0.125, "mean": 0.125},
    }
    uneven = means_by_group({"q1": 1.0, "q2": 1.0, "q3": 1.0, "q4": 0.0}, dict(q1="ja", q2="ja", q3="ja", q4="ar"))
    assert uneven == {"ar": 0.0, "ja": 1.0, "macro": 0.5, "mean": 0.75} and list(uneven)[0] == "ar"


def test_answers_are_searched_in_texts():
    per_query = evaluate_rankings(
        RUN, measures=["Answer@1", "Answer@2"], answers=ANSWERS, passages=PASSAGES, per_query=True
    )
    assert per_query == {"Answer@1": {"q1": 0, "q2": 1, "q4": 0}, "Answer@2": {"q1": 1, "q2": 1, "q4": 0}}
    texts = [[row["text"] for row in rows] for rows in (PASSAGES, [PASSAGES[2], PASSAGES[0]], [])]
    means = evaluate_rankings(RUN, measures=["Answer@2"], answers=ANSWERS, passages=PASSAGES, groups=GROUPS)
    assert means["Answer@2"]["mean"] == answer_recall_at_k(texts, list(ANSWERS.values()), 2) == pytest.approx(2 / 3)
    assert means["Answer@2"]["ko"] == 0


def test_defaults_and_order():
    values = evaluate_rankings(RUN, JUDGED, ["Answer@1", "R@1"], answers=ANSWERS, passages=PASSAGES)
    assert list(values) == ["Answer@1", "R@1"]
    assert list(evaluate_rankings(RUN, JUDGED)) == ["R@1", "R@5", "R@10", "RR@10", "nDCG@10"]
    by_answer = evaluate_rankings(RUN, answers=ANSWERS, passages=PASSAGES)
    assert list(by_answer) == ["Answer@1", "Answer@5", "Answer@20", "Answer@100"]


def test_scores_order_ranked_passages():
    ranked = RankedPassages({"q1": ["c", "b"]}, {"q1": [1.0, 1.0]})
    assert evaluate_rankings(ranked, {"q1": ["b"]}, ["RR"]) == {"RR": {"mean": 1.0}}
    by_answer = evaluate_rankings(ranked, measures=["Answer@1"], answers={"q1": ["Seine"]}, passages=PASSAGES)
    assert by_answer == {"Answer@1": {"mean": 1.0}}


@pytest.mark.parametrize("name", ["P@5", "R", "R@0", "R@", "R@5@6", "r@5", "Answer", "AP", "", 5])
def test_unknown_measures(name):
    with pytest.raises(ValueError, match="is not a measure"):
        parse_measures([name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give `relevance`, or `answers` and `passages`"),
        ({"relevance": JUDGED, "measures": []}, "`measures` must be a list of at least one name, got"),
        ({"relevance": JUDGED, "measures": "RR"}, "`measures` must be a list of at least one name, got 'RR'"),
        ({"answers": ANSWERS, "passages": PASSAGES, "measures": ["RR", "R@5"]}, "`RR`, `R@5` need `relevance`"),
        ({"relevance": JUDGED, "measures": ["Answer@5"]}, "`Answer@5` need `answers` and `passages`"),
        ({"answers": ANSWERS}, "give `relevance`, or `answers` and `passages`"),
        ({"answers": {}, "passages": PASSAGES}, "`answers` is empty"),
        ({"answers": ANSWERS, "passages": PASSAGES[:1]}, r"2 ranked passages are not among .* \['b', 'c'\]"),
        ({"relevance": JUDGED, "groups": {"q1": "fi"}}, "The query `q2` has no group"),
        ({"relevance": {"q1": ["a"]}, "groups": {"q1": "mean"}}, "A group is called 'mean'"),
    ],
)
def test_errors_of_several_measures(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_rankings(RUN, **arguments)
