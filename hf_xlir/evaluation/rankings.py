"""What a ranking is, and the one order of it: by score, and of equal scores by the passage's id."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class RankedPassages(NamedTuple):
    r"""
    What [`rank_passages`] returns.

    Args:
        rankings (`dict[str, list[str]]`):
            For each question's id the passages' ids, best first.
        scores (`dict[str, list[float]]`):
            The scores of those passages, falling; empty where there are none.
    """

    rankings: dict[str, list[str]]
    scores: dict[str, list[float]]


def by_query(rankings):
    r"""
    Rankings of any form as one dictionary.

    Args:
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            Ids best first, or scores.

    Returns:
        `dict[str, list[str]]` or `dict[str, dict[str, float]]`: The latter if there are scores.

    Raises:
        ValueError: If a query has not as many scores as passages, or a passage twice; or it is no dictionary.
    """
    if not isinstance(rankings, RankedPassages):
        if not isinstance(rankings, Mapping):
            raise ValueError(f"Rankings are a dictionary by queries' ids, got a `{type(rankings).__name__}`.")
        return rankings
    if not rankings.scores:
        return rankings.rankings
    return {query: _scored(query, ids, rankings.scores.get(query, [])) for query, ids in rankings.rankings.items()}


def in_order(rankings):
    r"""
    Rankings of any form, put in order: by score, equal scores by the passage's id as text; without scores as they are.

    Args:
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            Ids best first, or scores.

    Returns:
        [`RankedPassages`]

    Raises:
        ValueError: If some queries have scores and others do not, or as [`ranked_ids`] raises.

    Example:
    ```python
    >>> from hf_xlir.evaluation.rankings import in_order

    >>> in_order({"q": {"c": 1.0, "b": 1.0, "a": 0.5}})
    RankedPassages(rankings={'q': ['b', 'c', 'a']}, scores={'q': [1.0, 1.0, 0.5]})

    ```
    """
    rankings = by_query(rankings)
    ids = {query: ranked_ids(query, ranking) for query, ranking in rankings.items()}
    with_scores = {isinstance(ranking, dict): query for query, ranking in rankings.items() if ranking}
    if len(with_scores) == 2:
        raise ValueError(
            f"The query `{with_scores[True]}` has scores, but `{with_scores[False]}` has none: give all or none."
        )
    if True not in with_scores:
        return RankedPassages(ids, {})
    return RankedPassages(ids, {query: [float(rankings[query][id]) for id in ids[query]] for query in ids})


def drop_own_ids(rankings):
    r"""
    Rankings without the passage, if there is one, that has the query's own id.

    Args:
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            Ids best first, or scores.

    Returns:
        `dict[str, list[str]]` or `dict[str, dict[str, float]]`

    Example:
    ```python
    >>> from hf_xlir.evaluation.rankings import drop_own_ids

    >>> drop_own_ids({"7": ["7", "12"]})
    {'7': ['12']}

    ```
    """
    return {
        query: {id: score for id, score in ranking.items() if id != query}
        if isinstance(ranking, dict)
        else [id for id in ranking if id != query]
        for query, ranking in by_query(rankings).items()
    }


def ranked_ids(query, ranking):
    r"""
    The passages of one query, best first.

    Args:
        query (`str`):
            Its id, for messages.
        ranking (`list[str]` or `dict[str, float]`):
            Ids, best first; or the score of each id, of which equal ones are ordered by id as text.

    Returns:
        `list[str]`

    Raises:
        ValueError: If it names a passage twice, has an id that is no string or a score that is NaN or no number, or is
            no list.
    """
    if isinstance(ranking, str) or not isinstance(ranking, Iterable):
        raise ValueError(f"The ranking of query `{query}` must be a list of ids, got {ranking!r}.")
    check_text_ids(f"The ranking of query `{query}` has", ranking)
    if isinstance(ranking, dict):
        try:
            has_nan = any(math.isnan(score) for score in ranking.values())
        except TypeError as error:
            raise ValueError(f"The ranking of query `{query}` has a score that is no number ({error}).") from None
        if has_nan:
            raise ValueError(f"The ranking of query `{query}` has a score that is NaN.")
        return sorted(ranking, key=lambda id: (-ranking[id], id))
    ids = list(ranking)
    _check_distinct(query, ids)
    return ids


def check_text_ids(where, ids):
    """Raise for ids that are numbers, say: those of files are texts, and no number equals its text."""
    for id in ids:
        if not isinstance(id, str):
            raise ValueError(f"{where} the id {id!r}: ids are strings, such as {str(id)!r}.")


def text_of_id(id):
    """An id out of JSON, where some write numbers; whatever else it is stays as it is, for a check."""
    return str(id) if type(id) is int else id


def _scored(query, ids, scores):
    if len(ids) != len(scores):
        raise ValueError(f"The ranking of query `{query}` has {len(ids)} passages, but {len(scores)} scores.")
    _check_distinct(query, ids)
    return dict(zip(ids, scores, strict=True))


def _check_distinct(query, ids):
    if len(set(ids)) < len(ids):
        twice = next(id for i, id in enumerate(ids) if id in ids[:i])
        raise ValueError(f"The ranking of query `{query}` names the passage `{twice}` twice.")


__all__ = ["RankedPassages", "by_query", "check_text_ids", "drop_own_ids", "in_order", "ranked_ids", "text_of_id"]
