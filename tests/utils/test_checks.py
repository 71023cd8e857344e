"""Checks of arguments."""

import numpy as np
import pytest
import torch
from transformers.utils import logging

from hf_xlir.utils.checks import as_list, check_choice, check_finite, check_integer, check_positive, quoted
from hf_xlir.utils.progress import progress_bar


def test_integers():
    assert [check_integer("k", value) for value in (1, np.int64(5))] == [1, 5]
    assert check_integer("k", 0, minimum=0) == 0 and type(check_integer("k", np.int32(3))) is int
    for value in (0, -1, 1.0, True, "1", None):
        with pytest.raises(ValueError, match=f"`k` must be a positive integer, got {value!r}"):
            check_integer("k", value)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        check_integer("k", 1, minimum=2)


def test_positive_numbers_and_choices():
    assert check_positive("scale", 0.5) == 0.5 and check_choice("kind", "a", ("a", "b")) == "a"
    for value in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="`scale` must be positive"):
            check_positive("scale", value)
    with pytest.raises(ValueError, match="`kind` must be one of 'a', 'b', got 'c'"):
        check_choice("kind", "c", ("a", "b"))


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_finite_numbers(make):
    check_finite("Scores", make([1.0, -2.0]))
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="^Scores have NaN or infinite values. Use float32.$"):
            check_finite("Scores", make([1.0, value]), hint="Use float32.")


def test_lists():
    assert [as_list(value) for value in ("a", ("a", "b"), None)] == [["a"], ["a", "b"], []]
    assert quoted(["a", "b"]) == "`a`, `b`"


def test_progress_bars_follow_transformers():
    try:
        for enabled in (True, False):
            (logging.enable_progress_bar if enabled else logging.disable_progress_bar)()
            for show in (True, False):
                with progress_bar(range(2), show, desc="x") as bar:
                    assert bar.disable is not (enabled and show) and list(bar) == [0, 1]
    finally:
        logging.enable_progress_bar()
