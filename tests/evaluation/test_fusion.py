"""Fusion of rankings: by hand, and in exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir.evaluation import RankedPassages, fuse_rankings, load_ranking, save_ranking


DENSE = {"q1": {"a": 0.9, "b": 0.5, "c": 0.1}, "q2": {"x": 1.0}}
BM25 = RankedPassages({"q1": ["c", "a"], "q3": ["y"]}, {"q1": [8.0, 4.0], "q3": [2.0]})


def test_reciprocal_rank_by_hand():
    fused = fuse_rankings([DENSE, BM25])
    assert fused.rankings == {"q1": ["a", "c", "b"], "q2": ["x"], "q3": ["y"]}
    assert fused.scores["q1"] == pytest.approx([1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62])
    assert fused.scores["q2"] == fused.scores["q3"] == [1 / 61]


def test_weights_and_constant():
    fused = fuse_rankings([DENSE, BM25], weights=[1, 3], rank_constant=1, k=2)
    assert fused.rankings["q1"] == ["c", "a"]
    assert fused.scores["q1"] == pytest.approx([1 / 4 + 3 / 2, 1 / 2 + 3 / 3])


def test_weighted_sum_by_hand():
    fused = fuse_rankings([DENSE, BM25], "weighted_sum", weights=[1.0, 0.25])
    assert fused.rankings["q1"] == ["a", "b", "c"]  # 1 + 0, 0.5, 0 + 0.25
    assert fused.scores["q1"] == pytest.approx([1.0, 0.5, 0.25])
    assert fused.scores["q2"] == [1.0] and fused.scores["q3"] == [0.25]  # one passage is the first


def test_equal_scores_are_ordered_by_id_before_and_after():
    tied = RankedPassages({"q": ["b", "a"]}, {"q": [1.0, 1.0]})  # `a` comes first, since scores are equal
    assert fuse_rankings([tied]).rankings == {"q": ["a", "b"]}
    assert fuse_rankings([tied, {"q": ["b", "a"]}]).rankings == {"q": ["a", "b"]}
    assert fuse_rankings([{"q": ["b", "a"]}]).rankings == {"q": ["b", "a"]}


RANKINGS = st.dictionaries(
    st.sampled_from(["q1", "q2"]), st.lists(st.sampled_from("abcdef"), unique=True, max_size=5), min_size=2
)


@given(st.lists(RANKINGS, min_size=1, max_size=3), st.integers(0, 60))
def test_reciprocal_rank_in_fractions(rankings, constant):
    fused = fuse_rankings(rankings, rank_constant=constant)
    for query in ("q1", "q2"):
        expected = {}
        for ranking in rankings:
            for rank, id in enumerate(ranking[query], 1):
                expected[id] = expected.get(id, 0) + Fraction(1, constant + rank)
        assert sorted(fused.rankings[query]) == sorted(expected)
        assert fused.scores[query] == pytest.approx([float(expected[id]) for id in fused.rankings[query]])
        assert fused.scores[query] == sorted(fused.scores[query], reverse=True)
    assert fuse_rankings(rankings[::-1], rank_constant=constant) == fused


def test_from_a_file(tmp_path):
    save_ranking(tmp_path / "fused.tsv", fuse_rankings([DENSE, BM25]), "colbert")
    assert load_ranking(tmp_path / "fused.tsv") == fuse_rankings([DENSE, BM25])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "no ranking to fuse"),
        ((DENSE,), "`rankings` must be a list of rankings, got one `dict`"),
        ((BM25,), "got one `RankedPassages`"),
        (([DENSE, {"other": ["a"]}],), "no query in common"),
        (([DENSE, {"q1": ["a"]}], "weighted_sum"), "Ranking 1 has no scores"),
        (
            ([DENSE, {"q1": {"a": float("inf")}}], "weighted_sum"),
            "Query `q1`: Ranking 1 has a score that is NaN or inf",
        ),
        (([DENSE, BM25], "borda"), "`method` must be one of"),
        (([DENSE, BM25], "reciprocal_rank", [1]), "weight"),
        (([DENSE, BM25], "reciprocal_rank", None, 0), "`k` must be a positive integer, got 0"),
        (([DENSE, BM25], "reciprocal_rank", None, 2.0), "`k` must be a positive integer, got 2.0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        fuse_rankings(*arguments)
