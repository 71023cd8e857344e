"""One ranking of several, for all questions."""

from ..index.fusion import RANK_CONSTANT, check_fusion, fuse
from .rankings import RankedPassages, in_order


def fuse_rankings(rankings, method="reciprocal_rank", weights=None, k=None, *, rank_constant=RANK_CONSTANT):
    r"""
    Fuse the rankings of several systems, query by query: by reciprocal rank (Cormack, Clarke, Büttcher 2009), or as a
    weighted sum of scores that are scaled from 0 to 1 for each query; see [`~hf_xlir.index.fusion.fuse`].

    Args:
        rankings (`list` of [`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            At least one. Equal scores are ordered by id. A query that some of them lack is fused from the others.
        method (`str`, *optional*, defaults to `"reciprocal_rank"`):
            `"reciprocal_rank"` or `"weighted_sum"`, which needs scores.
        weights (`list[float]`, *optional*):
            How much each ranking counts, from 0; 1 each by default.
        k (`int`, *optional*):
            Most passages a query; all that any ranking has by default.
        rank_constant (`float`, *optional*, defaults to 60):
            For `"reciprocal_rank"`: the larger, the less the first ranks stand out.

    Returns:
        [`RankedPassages`]: Of each query of any ranking; equal scores are ordered by id.

    Raises:
        ValueError: If there are no rankings, or they have no query in common; if `weights` are not as many or none is
            above 0, an argument is unknown or out of range, or `"weighted_sum"` meets a ranking without scores or with
            an infinite one.

    Example:
    ```python
    >>> from hf_xlir.evaluation import fuse_rankings

    >>> dense, bm25 = {"q": ["a", "b", "c"]}, {"q": ["c", "a"]}
    >>> fuse_rankings([dense, bm25], k=2).rankings
    {'q': ['a', 'c']}

    ```
    """
    if isinstance(rankings, dict | RankedPassages):
        raise ValueError(f"`rankings` must be a list of rankings, got one of them, a `{type(rankings).__name__}`.")
    check_fusion(len(rankings), method, weights, rank_constant)
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise ValueError(f"`k` must be a positive integer, got {k!r}.")
    rankings = [in_order(each) for each in rankings]
    if len(rankings) > 1 and not set.intersection(*(set(each.rankings) for each in rankings)):
        raise ValueError(
            f"The rankings have no query in common: they are of {[list(each.rankings)[:3] for each in rankings]}. Use "
            "the same ids in all."
        )
    for position, each in enumerate(rankings):
        if method == "weighted_sum" and not each.scores and any(each.rankings.values()):
            raise ValueError(
                f"Ranking {position} has no scores, which `weighted_sum` needs: fuse by `reciprocal_rank`."
            )

    result = RankedPassages({}, {})
    for query in dict.fromkeys(query for each in rankings for query in each.rankings):
        ids = [each.rankings.get(query, []) for each in rankings]
        scores = [each.scores.get(query, []) for each in rankings] if method == "weighted_sum" else None
        try:
            ids, scores = fuse(ids, scores, method, weights, rank_constant)
        except ValueError as error:
            raise ValueError(f"Query `{query}`: {error}") from error
        result.rankings[query], result.scores[query] = ids[:k], scores[:k]
    return result


__all__ = ["fuse_rankings"]
