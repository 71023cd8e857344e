"""Fusion: one ranking from several, for one question."""

import math
from numbers import Real

from ..utils.checks import check_choice


FUSION_METHODS = ("reciprocal_rank", "weighted_sum")
FUSION_OPTIONS = ("method", "weights", "rank_constant")
RANK_CONSTANT = 60  # of the paper's experiments


def fuse(ids, scores=None, method="reciprocal_rank", weights=None, rank_constant=RANK_CONSTANT):
    r"""
    Fuse the rankings that several systems gave for one question.

    - `"reciprocal_rank"` (Cormack, Clarke, Büttcher 2009, https://dl.acm.org/doi/10.1145/1571941.1572114): a passage's
      score is the sum of `weight / (rank_constant + rank)` over the rankings that have it, with ranks from 1. Scores
      are not used, so they need not have a common scale.
    - `"weighted_sum"`: the sum of `weight * scaled score`. Each ranking's scores are first scaled to 0 for its last
      passage and 1 for its first, since BM25 scores and cosines have different scales; equal scores all become 1. A
      passage that is missing in a ranking gets 0 from it.

    Args:
        ids (`list[list[str]]`):
            The passages' ids per system, best first. A ranking may be empty.
        scores (`list[list[float]]`, *optional*):
            Their scores, which `"weighted_sum"` needs.
        method (`"reciprocal_rank"` or `"weighted_sum"`, *optional*, defaults to `"reciprocal_rank"`):
            How to fuse.
        weights (`list[float]`, *optional*):
            Weight of each system, at least 0. By default 1.
        rank_constant (`float`, *optional*, defaults to 60):
            Larger values make the first ranks stand out less.

    Returns:
        `tuple[list[str], list[float]]`: All ids that a system ranked, and their scores in falling order; equal scores
        are ordered by id. The result does not depend on the order of the systems.

    Raises:
        ValueError: If there is no ranking, lengths differ, a ranking names a passage twice, a score is not finite, or
            an argument is out of range.

    Example:
    ```python
    >>> from hf_xlir.index import fuse

    >>> fuse([["a", "b"], ["b", "c"]])[0]
    ['b', 'a', 'c']
    >>> fuse([["a", "b"], ["b", "c"]], [[0.9, 0.1], [7.5, 2.5]], "weighted_sum", weights=[2, 1])
    (['a', 'b', 'c'], [2.0, 1.0, 0.0])

    ```
    """
    weights = check_fusion(len(ids), method, weights, rank_constant)
    if method == "weighted_sum" and scores is None:
        raise ValueError("`weighted_sum` needs `scores`: give them, or fuse by `reciprocal_rank`.")
    shares = {}
    for system, (ranking, weight) in enumerate(zip(ids, weights, strict=True)):
        if len(set(ranking)) < len(ranking):
            twice = next(id for place, id in enumerate(ranking) if id in ranking[:place])
            raise ValueError(f"Ranking {system} names the passage `{twice}` twice.")
        if method == "reciprocal_rank":
            values = [1 / (rank_constant + rank) for rank in range(1, len(ranking) + 1)]
        else:
            values = _scaled(scores[system], len(ranking), system)
        for id, value in zip(ranking, values, strict=True):
            shares.setdefault(id, []).append(weight * value)
    fused = {id: math.fsum(values) for id, values in shares.items()}  # exact, so any order gives the same
    best = sorted(fused, key=lambda id: (-fused[id], id))
    return best, [fused[id] for id in best]


def check_fusion(num_systems, method="reciprocal_rank", weights=None, rank_constant=RANK_CONSTANT):
    """The weights as a list of `num_systems` numbers, after a check of the arguments of [`fuse`]."""
    if not num_systems:
        raise ValueError("There is no ranking to fuse: give at least one.")
    check_choice("method", method, FUSION_METHODS)
    if not isinstance(rank_constant, Real) or not rank_constant >= 0 or math.isinf(rank_constant):
        raise ValueError(f"`rank_constant` must be a finite number of at least 0, got {rank_constant!r}.")
    weights = [1.0] * num_systems if weights is None else list(weights)
    if len(weights) != num_systems:
        raise ValueError(f"There must be one weight per ranking, got {len(weights)} for {num_systems}.")
    if not all(isinstance(each, Real) and each >= 0 and math.isfinite(each) for each in weights) or not any(weights):
        raise ValueError(f"`weights` must be finite numbers of at least 0, not all 0, got {weights}.")
    return weights


def _scaled(scores, length, system):
    """Scores scaled to lie from 0 to 1."""
    if len(scores) != length:
        raise ValueError(f"Ranking {system} has {length} passages, but {len(scores)} scores.")
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"Ranking {system} has a score that is NaN or infinite.")
    if not length:
        return []
    least, largest = min(scores), max(scores)
    if least == largest:
        return [1.0] * length
    return [(score - least) / (largest - least) for score in scores]


__all__ = ["FUSION_METHODS", "FUSION_OPTIONS", "RANK_CONSTANT", "check_fusion", "fuse"]
