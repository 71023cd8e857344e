"""Several measures at once, by language, against the metrics one by one and by hand."""

import pytest

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


RANKINGS = {"q1": ["a", "b", "c"], "q2": ["c", "a"], "q3": {"b": 1.0, "a": 1.0}, "unjudged": ["a"]}
RELEVANCE = {"q1": {"b": 2, "c": 1}, "q2": ["c", "z"], "q3": ["b"], "q4": ["a"]}
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
def test_as_the_metrics_one_by_one(name, metric, k):
    for measures in ([name], ["RR", "R@1", name, "nDCG@3"]):
        assert evaluate_rankings(RANKINGS, RELEVANCE, measures)[name] == {"mean": metric(RANKINGS, RELEVANCE, k)}
        per_query = evaluate_rankings(RANKINGS, RELEVANCE, measures, per_query=True)
        assert list(per_query) == list(dict.fromkeys(measures))
        assert per_query[name] == metric(RANKINGS, RELEVANCE, k, per_query=True)


def test_by_language():
    values = evaluate_rankings(RANKINGS, RELEVANCE, ["RR", "R@1"], GROUPS)
    assert values == {
        "RR": {"fi": 0.75, "ko": 0.25, "macro": 0.5, "mean": 0.5},
        "R@1": {"fi": 0.25, "ko": 0.0, "macro": 0.125, "mean": 0.125},
    }
    uneven = means_by_group({"q1": 1.0, "q2": 1.0, "q3": 1.0, "q4": 0.0}, dict(q1="ja", q2="ja", q3="ja", q4="ar"))
    assert uneven == {"ar": 0.0, "ja": 1.0, "macro": 0.5, "mean": 0.75} and list(uneven)[0] == "ar"


def test_answers_are_looked_for_in_texts():
    per_query = evaluate_rankings(
        RANKINGS, measures=["Answer@1", "Answer@2"], answers=ANSWERS, passages=PASSAGES, per_query=True
    )
    assert per_query == {"Answer@1": {"q1": 0, "q2": 1, "q4": 0}, "Answer@2": {"q1": 1, "q2": 1, "q4": 0}}
    texts = [[row["text"] for row in rows] for rows in (PASSAGES, [PASSAGES[2], PASSAGES[0]], [])]
    means = evaluate_rankings(RANKINGS, measures=["Answer@2"], answers=ANSWERS, passages=PASSAGES, groups=GROUPS)
    assert means["Answer@2"]["mean"] == answer_recall_at_k(texts, list(ANSWERS.values()), 2) == pytest.approx(2 / 3)
    assert means["Answer@2"]["ko"] == 0


def test_both_kinds_keep_the_order_that_was_asked_for():
    values = evaluate_rankings(RANKINGS, RELEVANCE, ["Answer@1", "R@1"], answers=ANSWERS, passages=PASSAGES)
    assert list(values) == ["Answer@1", "R@1"]


def test_defaults():
    assert list(evaluate_rankings(RANKINGS, RELEVANCE)) == ["R@1", "R@5", "R@10", "RR@10", "nDCG@10"]
    by_answer = evaluate_rankings(RANKINGS, answers=ANSWERS, passages=PASSAGES)
    assert list(by_answer) == ["Answer@1", "Answer@5", "Answer@20", "Answer@100"]


def test_scores_order_ranked_passages():
    ranked = RankedPassages({"q1": ["c", "b"]}, {"q1": [1.0, 1.0]})
    assert evaluate_rankings(ranked, {"q1": ["b"]}, ["RR"]) == {"RR": {"mean": 1.0}}
    by_answer = evaluate_rankings(ranked, measures=["Answer@1"], answers={"q1": ["Seine"]}, passages=PASSAGES)
    assert by_answer == {"Answer@1": {"mean": 1.0}}


@pytest.mark.parametrize("name", ["P@5", "R", "R@0", "recall@5", "R@", "R@5@6", "r@5", "nDCG", "Answer", "AP", "", 5])
def test_no_such_measure(name):
    with pytest.raises(ValueError, match="is not a measure"):
        parse_measures([name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give `relevance`, or `answers` and `passages`"),
        ({"relevance": RELEVANCE, "measures": []}, "`measures` must be a list of at least one name, got"),
        ({"relevance": RELEVANCE, "measures": "RR"}, "`measures` must be a list of at least one name, got 'RR'"),
        ({"answers": ANSWERS, "passages": PASSAGES, "measures": ["RR", "R@5"]}, "`RR`, `R@5` need `relevance`"),
        ({"relevance": RELEVANCE, "measures": ["Answer@5"]}, "`Answer@5` need `answers` and `passages`"),
        ({"answers": ANSWERS}, "give `relevance`, or `answers` and `passages`"),
        ({"answers": {}, "passages": PASSAGES}, "`answers` is empty"),
        ({"answers": ANSWERS, "passages": PASSAGES[:1]}, r"2 ranked passages are not among .* \['b', 'c'\]"),
        ({"relevance": RELEVANCE, "groups": {"q1": "fi"}}, "The query `q2` has no group"),
        ({"relevance": {"q1": ["a"]}, "groups": {"q1": "mean"}}, "A group is called 'mean'"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_rankings(RANKINGS, **arguments)
