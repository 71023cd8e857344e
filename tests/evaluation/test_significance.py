"""Tests of significance against all permutations in a plain loop, and the t statistic by its formula."""

import math
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.evaluation import compare_runs


def runs(*differences):
    first = {f"q{i}": 0.25 + difference for i, difference in enumerate(differences)}
    return first, dict.fromkeys(reversed(first), 0.25)  # in another order of the same queries


EIGHTHS = st.lists(st.integers(-4, 4).map(lambda value: value / 8), min_size=2, max_size=8)  # exact in binary


@settings(max_examples=30)
@given(EIGHTHS)
def test_all_exchanges_are_tried_where_they_are_few(differences):
    result = compare_runs(*runs(*differences))
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    below = sum(each <= sum(differences) for each in sums) / len(sums)
    above = sum(each >= sum(differences) for each in sums) / len(sums)
    assert result.num_queries == len(differences)
    assert result.difference == pytest.approx(sum(differences) / len(differences))
    assert result.p_value == pytest.approx(min(1.0, 2 * min(below, above)))


def test_by_hand():
    assert compare_runs(*runs(1.0, 1.0, 0.5, 1.0)) == (4, 0.875, 2 / 16)
    assert compare_runs(*runs(-1.0, -1.0, -0.5, -1.0)) == (4, -0.875, 2 / 16)


def test_drawn_exchanges_repeat_and_come_near_all():
    differences = [((7 * i) % 11 - 4) / 8 for i in range(15)]
    drawn = compare_runs(*runs(*differences), num_permutations=9999, seed=1)
    exact = compare_runs(*runs(*differences), num_permutations=2**15)
    assert drawn == compare_runs(*runs(*differences), num_permutations=9999, seed=1)
    assert drawn.p_value != exact.p_value and drawn.p_value == pytest.approx(exact.p_value, abs=0.02)
    assert drawn != compare_runs(*runs(*differences), num_permutations=9999, seed=2)


def test_what_is_beyond_chance_has_the_least_p_value():
    assert compare_runs(*runs(*[0.5] * 200), num_permutations=499).p_value == pytest.approx(2 / 500)


def test_t():
    differences = (0.5, 0.25, 0.0, 0.75)
    result = compare_runs(*runs(*differences), method="t")
    # t = mean / (s / sqrt(n)), and for 3 degrees of freedom its distribution has a closed form
    mean = sum(differences) / 4
    t = mean / math.sqrt(sum((each - mean) ** 2 for each in differences) / 3 / 4)
    tail = 0.5 - (t / math.sqrt(3) / (1 + t * t / 3) + math.atan(t / math.sqrt(3))) / math.pi
    assert result == (4, 0.375, pytest.approx(2 * tail))
    assert compare_runs(*runs(0.5, 0.5), method="t").p_value == 0


@pytest.mark.parametrize("method", ["permutation", "t"])
def test_equal_runs(method):
    assert compare_runs(*runs(0.0, 0.0, 0.0), method=method) == (3, 0.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0}, {}, r"2 are in one run only, such as \['b', 'c'\]"),
        ({"a": 1.0, 1: 1.0}, {"b": 1.0}, {}, r"3 are in one run only, such as \[1, 'a', 'b'\]"),
        ({"a": "1", "b": "1"}, {"a": 1.0, "b": 1.0}, {}, "The runs have values that are not numbers"),
        ({"a": 1.0}, {"a": 0.0}, {}, "At least two queries are needed, got 1"),
        ({"a": 1.0, "b": math.nan}, {"a": 1.0, "b": 1.0}, {}, "not finite"),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}, {"method": "wilcoxon"}, "`method` must be one of .*'wilcoxon'"),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}, {"num_permutations": 0}, "`num_permutations` must be a positive"),
    ],
)
def test_errors(first, second, options, message):
    with pytest.raises(ValueError, match=message):
        compare_runs(first, second, **options)
