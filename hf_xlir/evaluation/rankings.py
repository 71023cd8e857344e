"""Rankings: their type, their one order (by score, then by passage id), and the texts of ranked passages."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple


PASSAGES_PER_BLOCK = 100_000  # ids in memory at once


class RankedPassages(NamedTuple):
    r"""
    The ranking of each query: the result of a retrieval run, and the input of metrics.

    Args:
        rankings (`dict[str, list[str]]`):
            Passage ids for each query id, best first.
        scores (`dict[str, list[float]]`):
            The scores of these passages, highest first. Empty if there are none.
    """

    rankings: dict[str, list[str]]
    scores: dict[str, list[float]]


def drop_own_ids(rankings):
    r"""
    Remove the passage that has the query's own id from each ranking, as BEIR's evaluation does: some of its queries
    are passages themselves.

    Args:
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            Passage ids, best first, or a score per passage id.

    Returns:
        [`RankedPassages`]

    Raises:
        ValueError: If a ranking names a passage twice, or a score or an id is not valid.

    Example:
    ```python
    >>> from hf_xlir.evaluation import drop_own_ids

    >>> drop_own_ids({"7": ["7", "12"]}).rankings
    {'7': ['12']}

    ```
    """
    ranked = in_order(rankings)
    kept = {query: [id != query for id in ids] for query, ids in ranked.rankings.items()}
    return RankedPassages(
        *(
            {query: [each for each, keep in zip(values, kept[query], strict=True) if keep] for query, values in part}
            for part in (ranked.rankings.items(), ranked.scores.items())
        )
    )


def by_query(rankings):
    """Rankings of any form as a dictionary: a score per passage id where there are scores, or else lists of ids."""
    if not isinstance(rankings, RankedPassages):
        if not isinstance(rankings, Mapping):
            raise ValueError(f"Rankings must be a dictionary by query id, got a `{type(rankings).__name__}`.")
        return rankings
    if not rankings.scores:
        return rankings.rankings
    scored = {}
    for query, ids in rankings.rankings.items():
        scores = rankings.scores.get(query, [])
        if len(ids) != len(scores):
            raise ValueError(f"The ranking of query `{query}` has {len(ids)} passages, but {len(scores)} scores.")
        _check_distinct(query, ids)
        scored[query] = dict(zip(ids, scores, strict=True))
    return scored


def in_order(rankings):
    """Rankings of any form as [`RankedPassages`]: by score, then by id; lists without scores keep their order."""
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


def ranked_ids(query, ranking):
    """The passage ids of one query, best first, from a list of ids or a score per id; checked."""
    if isinstance(ranking, str) or not isinstance(ranking, Iterable):
        raise ValueError(f"The ranking of query `{query}` must be a list of ids, got {ranking!r}.")
    check_text_ids(f"The ranking of query `{query}`", ranking)
    if isinstance(ranking, dict):
        try:
            has_nan = any(math.isnan(score) for score in ranking.values())
        except TypeError as error:
            raise ValueError(f"The ranking of query `{query}` has a score that is not a number ({error}).") from None
        if has_nan:
            raise ValueError(f"The ranking of query `{query}` has a score that is NaN.")
        return sorted(ranking, key=lambda id: (-ranking[id], id))
    ids = list(ranking)
    _check_distinct(query, ids)
    return ids


def check_text_ids(where, ids):
    """Raise for ids that are not strings: ids from files are strings, and a number never equals its text."""
    for id in ids:
        if not isinstance(id, str):
            raise ValueError(f"{where} has the id {id!r}: ids are strings, such as {str(id)!r}.")


def text_of_id(id):
    """An id from JSON as text: some files write numbers. Other types stay as they are, for a check."""
    return str(id) if type(id) is int else id


def texts_by_id(ids, passages):
    """`{id: text}` of some passages. All ids are read, but only the wanted texts."""
    wanted, rows = set(ids), {}
    for start in range(0, len(passages), PASSAGES_PER_BLOCK):
        block = _column(passages, "id", slice(start, start + PASSAGES_PER_BLOCK))
        rows |= {id: row for row, id in enumerate(block, start) if id in wanted}
    unknown = sorted(wanted - rows.keys())
    if unknown:
        raise ValueError(
            f"{len(unknown)} ranked passages are not among `passages`, such as {unknown[:3]}: give the passages that "
            "were ranked."
        )
    return dict(zip(rows, _column(passages, "text", list(rows.values())), strict=True)) if rows else {}


def _column(passages, name, rows):
    """One column of some rows, given as a slice or a list of numbers; other columns of a dataset are not decoded."""
    from datasets import Dataset  # takes a second to import, which most metrics need not wait for

    if isinstance(passages, Dataset):
        with passages.formatted_as(columns=[name]):
            return passages[rows][name]
    return [row[name] for row in (passages[rows] if isinstance(rows, slice) else (passages[row] for row in rows))]


def _check_distinct(query, ids):
    if len(set(ids)) < len(ids):
        twice = next(id for i, id in enumerate(ids) if id in ids[:i])
        raise ValueError(f"The ranking of query `{query}` names the passage `{twice}` twice.")


__all__ = ["RankedPassages", "drop_own_ids"]
