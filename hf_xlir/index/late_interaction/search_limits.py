"""How thoroughly a compressed index is searched."""

from typing import NamedTuple

import numpy as np


class SearchLimits(NamedTuple):
    r"""
    What a search of compressed passages may look at, in each segment of an index.

    Args:
        n_probe (`int`):
            Most centroids' cells to visit, for each query token; those that are alike, of a cosine of 0.9 or more,
            count as one.
        n_tokens (`int`):
            No further cell is visited once so many tokens, for each query token, have been met.
        n_rerank (`int`):
            Passages scored from all their codes; at least `k` are.
    """

    n_probe: int
    n_tokens: int
    n_rerank: int


EVERYTHING = 2**40

# R@10 / R@100 against exact MaxSim, of 5,000 to 50,000 passages at 4 bits and questions filled up to 32 tokens with
# [MASK] (`benchmarks/late_interaction.py`):
#
#                                      fast           balanced       exact
# with a sample of queries             .96 / .89      .97 / .95      .97 / .96
# with pieces of 20,000 passages       .95 / .87      .97 / .94      .98 / .96
# without, 20,000 passages             .76 / .71      .84 / .81      .96 / .94
PRESETS = {
    "fast": SearchLimits(16, 10**9, 500),
    "balanced": SearchLimits(32, 10**9, 1000),
    "exact": SearchLimits(EVERYTHING, EVERYTHING, EVERYTHING),  # all passages are scored
}


def search_limits(preset, n_probe=None, n_tokens=None, n_rerank=None):
    r"""
    The limits of a preset, of which some may be given explicitly.

    Args:
        preset (`"fast"`, `"balanced"` or `"exact"`):
            Where the other arguments are `None`.
        n_probe, n_tokens, n_rerank (`int`, *optional*):
            As in [`SearchLimits`].

    Returns:
        [`SearchLimits`].

    Raises:
        ValueError: If there is no such preset, or a number is not a positive integer.

    Example:
    ```python
    >>> from hf_xlir.index.late_interaction.search_limits import search_limits

    >>> search_limits("exact", n_probe=8, n_tokens=1000, n_rerank=100)
    SearchLimits(n_probe=8, n_tokens=1000, n_rerank=100)

    ```
    """
    if preset not in PRESETS:
        raise ValueError(f"`preset` must be one of {list(PRESETS)}, got {preset!r}.")
    given = {"n_probe": n_probe, "n_tokens": n_tokens, "n_rerank": n_rerank}
    for name, value in given.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
    return PRESETS[preset]._replace(**{name: int(value) for name, value in given.items() if value is not None})


__all__ = ["PRESETS", "SearchLimits", "search_limits"]
