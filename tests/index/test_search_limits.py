"""Presets, and limits in their place."""

import numpy as np
import pytest

from hf_xlir.index.late_interaction.search import PRESETS, search_limits


def test_presets():
    assert list(PRESETS) == ["fast", "balanced", "exact"]
    for small, large in (("fast", "balanced"), ("balanced", "exact")):
        assert all(a <= b for a, b in zip(PRESETS[small], PRESETS[large], strict=True))
    assert search_limits("fast") == PRESETS["fast"]


def test_given_limits_replace_the_presets():
    assert search_limits("fast", n_rerank=np.int64(7)) == PRESETS["fast"]._replace(n_rerank=7)
    assert search_limits("exact", 1, 2, 3) == (1, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slow",), "`preset` .* got 'slow'"),
        ((None,), "got None"),
        (("fast", 0), "`n_probe` must be a positive integer, got 0"),
        (("fast", None, 1.5), "`n_tokens` must be a positive integer, got 1.5"),
        (("fast", None, None, True), "`n_rerank` must be a positive integer, got True"),
    ],
)
def test_wrong_ones(arguments, message):
    with pytest.raises(ValueError, match=message):
        search_limits(*arguments)
