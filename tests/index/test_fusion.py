"""Fusion of rankings against the definitions, in exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir.index.fusion import fuse


RANKINGS = st.lists(st.lists(st.sampled_from("abcdefg"), unique=True, max_size=6), min_size=1, max_size=4)


@given(RANKINGS, st.integers(0, 60), st.data())
def test_reciprocal_rank_in_fractions(rankings, constant, data):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(rankings), max_size=len(rankings)))
    expected = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, id in enumerate(ranking, start=1):
            expected[id] = expected.get(id, 0) + Fraction(weight, constant + rank)
    ids, scores = fuse(rankings, weights=weights, rank_constant=constant)
    assert dict(zip(ids, scores, strict=True)) == pytest.approx({id: float(value) for id, value in expected.items()})
    assert [(-score, id) for id, score in zip(ids, scores, strict=True)] == sorted(
        (-score, id) for id, score in zip(ids, scores, strict=True)
    )
    order = data.draw(st.permutations(range(len(rankings))))
    assert fuse([rankings[i] for i in order], weights=[weights[i] for i in order], rank_constant=constant) == (
        ids,
        scores,
    )


def test_reciprocal_rank_by_hand():
    ids, scores = fuse([["x", "b", "a"], ["a", "b"], []])
    assert ids == ["a", "b", "x"]
    assert scores == [1 / 63 + 1 / 61, 1 / 62 + 1 / 62, 1 / 61]
    # Equal sums are ordered by id, however they came about
    assert fuse([["b", "a"], ["a", "b"]])[0] == ["a", "b"]
    assert fuse([["10", "9"], ["9", "10"]])[0] == ["10", "9"]
    # 1/6 + 1/8 + 1/7 and 1/8 + 1/7 + 1/6, which differ where they are added from left to right
    ids, scores = fuse([["a", "x", "b"], ["x", "b", "a"], ["b", "a"]], rank_constant=5)
    assert ids == ["a", "b", "x"] and scores[0] == scores[1]
    assert fuse([["b", "a"], ["a", "b"]], weights=[2, 1])[0] == ["b", "a"]
    assert fuse([["a"], ["b"]], weights=[0, 1], rank_constant=9) == (["b", "a"], [0.1, 0.0])


def test_weighted_sum_by_hand():
    ids, scores = fuse(
        [["a", "b", "c"], ["c", "d"], ["e"]], [[8.0, 3.0, -2.0], [0.5, 0.25], [7.0]], "weighted_sum", [1.0, 2.0, 0.25]
    )
    assert ids == ["c", "a", "b", "e", "d"]
    assert scores == [2.0, 1.0, 0.5, 0.25, 0.0]
    assert fuse([["b", "a"]], [[3.0, 3.0]], "weighted_sum") == (["a", "b"], [1.0, 1.0])
    assert fuse([[], ["a"]], [[], [3.0]], "weighted_sum") == (["a"], [1.0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([],), "no ranking to fuse"),
        (([["a"]], None, "borda"), "`method` must be one of 'reciprocal_rank', 'weighted_sum', got 'borda'"),
        (([["a"]], None, "weighted_sum"), "needs `scores`"),
        (([["a"]], [[1.0, 2.0]], "weighted_sum"), "Ranking 0 has 1 passages, but 2 scores"),
        (([["a"]], [[float("nan")]], "weighted_sum"), "Ranking 0 has a score that is NaN or infinite"),
        (([["b"], ["a", "b", "a"]],), "Ranking 1 names the passage `a` twice"),
        (([["a"]], None, "reciprocal_rank", [1, 2]), "one weight.*2 for 1"),
        (([["a"]], None, "reciprocal_rank", [-1]), "`weights`.*got"),
        (([["a"]], None, "reciprocal_rank", [0]), "`weights`.*got"),
        (([["a"]], None, "reciprocal_rank", ["1"]), r"`weights`.*got \['1'\]"),
        (([["a"]], None, "reciprocal_rank", None, "60"), "`rank_constant`.*'60'"),
        (([["a"]], None, "reciprocal_rank", None, -1), "`rank_constant`.*-1"),
        (([["a"]], None, "reciprocal_rank", None, float("nan")), "`rank_constant`.*nan"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        fuse(*arguments)
