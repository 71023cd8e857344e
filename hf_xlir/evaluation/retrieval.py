"""Rank metrics, from rankings and relevance judgements, by `ir-measures`."""

import math
from numbers import Integral, Real

from .rankings import by_query, check_text_ids, ranked_ids


def recall_at_k(rankings, relevance, k, per_query=False):
    r"""
    R@k: the share of a query's relevant passages that are among the first `k`; the mean over queries.

    With one relevant passage a query this is [`success_at_k`]. With several it is not: papers after DPR print
    `success_at_k`, or [`answer_recall_at_k`], under the name of recall.

    Args:
        rankings (`dict[str, list[str]]`, `dict[str, dict[str, float]]` or `RankedPassages`):
            For each query's id, passages' ids best first, or each passage's score, higher is better; equal scores are
            ranked by id.
        relevance (`dict[str, Iterable[str]]` or `dict[str, dict[str, int]]`):
            For each query's id, the ids of its relevant passages, or each judged passage's grade, relevant above 0;
            one below 0 is as good as 0.
            These are the queries that count: one without a ranking has the value 0, and rankings of others are left
            aside.
        k (`int`):
            How many passages of a ranking to look at.
        per_query (`bool`, *optional*, defaults to `False`):
            Whether to return each query's value instead of the mean.

    Returns:
        `float`, or `dict[str, float]` with `per_query=True`: Between 0 and 1.

    Raises:
        ValueError: If there are no judgements, a query has no relevant passage, a grade is no whole number or above a
            million, a ranking names a passage twice or has a score that is NaN or no number, an id is no string, no
            ranking is of a judged query, or `k` is below 1.

    Example:
    ```python
    >>> from hf_xlir.evaluation import recall_at_k

    >>> recall_at_k({"q1": ["a", "b", "c"]}, {"q1": ["b", "z"], "q2": ["c"]}, k=2)
    0.25
    >>> recall_at_k({"q1": ["a", "b", "c"]}, {"q1": ["b", "z"], "q2": ["c"]}, k=2, per_query=True)
    {'q1': 0.5, 'q2': 0.0}

    ```
    """
    return _evaluate("R", rankings, relevance, k, per_query)


def success_at_k(rankings, relevance, k, per_query=False):
    r"""
    The share of queries with at least one relevant passage among the first `k`: what DPR-style tables print.

    Args:
        rankings (`dict[str, list[str]]`, `dict[str, dict[str, float]]` or `RankedPassages`):
            As for [`recall_at_k`].
        relevance (`dict[str, Iterable[str]]` or `dict[str, dict[str, int]]`):
            As for [`recall_at_k`].
        k (`int`):
            How many passages of a ranking to look at.
        per_query (`bool`, *optional*, defaults to `False`):
            Whether to return each query's value instead of the mean.

    Returns:
        `float`, or `dict[str, float]` with `per_query=True`: Between 0 and 1.

    Example:
    ```python
    >>> from hf_xlir.evaluation import success_at_k

    >>> success_at_k({"q1": ["a", "b", "c"]}, {"q1": ["b", "z"], "q2": ["c"]}, k=2)
    0.5

    ```
    """
    return _evaluate("Success", rankings, relevance, k, per_query)


def reciprocal_rank(rankings, relevance, k=None, per_query=False):
    r"""
    1 / rank of a query's first relevant passage, 0 if there is none among the first `k`; the mean over queries (MRR).

    Args:
        rankings (`dict[str, list[str]]`, `dict[str, dict[str, float]]` or `RankedPassages`):
            As for [`recall_at_k`].
        relevance (`dict[str, Iterable[str]]` or `dict[str, dict[str, int]]`):
            As for [`recall_at_k`].
        k (`int`, *optional*):
            How many passages of a ranking to look at, all by default.
        per_query (`bool`, *optional*, defaults to `False`):
            Whether to return each query's value instead of the mean.

    Returns:
        `float`, or `dict[str, float]` with `per_query=True`: Between 0 and 1.

    Example:
    ```python
    >>> from hf_xlir.evaluation import reciprocal_rank

    >>> reciprocal_rank({"q1": ["a", "b", "c"]}, {"q1": ["b", "z"]})
    0.5

    ```
    """
    return _evaluate("RR", rankings, relevance, k, per_query)


def ndcg_at_k(rankings, relevance, k, per_query=False):
    r"""
    Normalised discounted cumulative gain: the sum over the first `k` of grade / log2(rank + 1), divided by the most
    that an ideal ranking reaches; the mean over queries. As `trec_eval` has it: the gain is the grade itself.

    Args:
        rankings (`dict[str, list[str]]`, `dict[str, dict[str, float]]` or `RankedPassages`):
            As for [`recall_at_k`].
        relevance (`dict[str, Iterable[str]]` or `dict[str, dict[str, int]]`):
            As for [`recall_at_k`]; ids without grades have grade 1.
        k (`int`):
            How many passages of a ranking to look at.
        per_query (`bool`, *optional*, defaults to `False`):
            Whether to return each query's value instead of the mean.

    Returns:
        `float`, or `dict[str, float]` with `per_query=True`: Between 0 and 1.

    Example:
    ```python
    >>> from hf_xlir.evaluation import ndcg_at_k

    >>> round(ndcg_at_k({"q1": ["a", "b"]}, {"q1": {"b": 2, "a": 1}}, k=10), 4)
    0.8597

    ```
    """
    return _evaluate("nDCG", rankings, relevance, k, per_query)


def average_precision(rankings, relevance, k=None, per_query=False):
    r"""
    The precision at the rank of each relevant passage, summed over those among the first `k` and divided by the number
    of all relevant passages; the mean over queries (MAP).

    Args:
        rankings (`dict[str, list[str]]`, `dict[str, dict[str, float]]` or `RankedPassages`):
            As for [`recall_at_k`].
        relevance (`dict[str, Iterable[str]]` or `dict[str, dict[str, int]]`):
            As for [`recall_at_k`].
        k (`int`, *optional*):
            How many passages of a ranking to look at, all by default.
        per_query (`bool`, *optional*, defaults to `False`):
            Whether to return each query's value instead of the mean.

    Returns:
        `float`, or `dict[str, float]` with `per_query=True`: Between 0 and 1.

    Example:
    ```python
    >>> from hf_xlir.evaluation import average_precision

    >>> average_precision({"q1": ["b", "a", "c", "d"]}, {"q1": ["b", "d"]})  # (1/1 + 2/4) / 2
    0.75

    ```
    """
    return _evaluate("AP", rankings, relevance, k, per_query)


LARGEST_GRADE = 1_000_000  # trec_eval keeps a table as long as the largest, and 32 bits a grade
WITHOUT_CUTOFF = ("AP", "RR")  # defined on a whole ranking, too


def _evaluate(name, rankings, relevance, k, per_query):
    if not (name in WITHOUT_CUTOFF and k is None) and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise ValueError(f"`k` must be a positive integer, got {k!r}.")
    (values,) = measure_queries(rankings, relevance, [(name, k)])
    return values if per_query else math.fsum(values.values()) / len(values)


def measure_queries(rankings, relevance, measures):
    r"""
    Each query's value by several measures, of rankings that are put in order once.

    Args:
        rankings (`dict[str, list[str]]`, `dict[str, dict[str, float]]` or `RankedPassages`):
            As for [`recall_at_k`].
        relevance (`dict[str, Iterable[str]]` or `dict[str, dict[str, int]]`):
            As for [`recall_at_k`].
        measures (`list[tuple[str, int or None]]`):
            Names of `ir_measures`, `"R"`, `"Success"`, `"RR"`, `"nDCG"` or `"AP"`, and how many passages count.

    Returns:
        `list[dict[str, float]]`: For each measure the value of each judged query.
    """
    import ir_measures

    check_text_ids("`relevance` has", relevance)
    judgements = {query: _grades(query, judged) for query, judged in relevance.items()}
    if not judgements:
        raise ValueError("`relevance` is empty: give the relevant passages of at least one query.")
    rankings = by_query(rankings)
    ranked = {query: ranked_ids(query, rankings[query]) for query in judgements if query in rankings}
    if rankings and not ranked:
        raise ValueError(
            f"No ranking is of a judged query: rankings are of {list(rankings)[:3]}, judgements of "
            f"{list(judgements)[:3]}. Use the same ids in both."
        )
    results = []
    for name, k in measures:
        # trec_eval sorts by score itself, in float32 and with ties by id from z to a, so it gets distinct small
        # numbers; and no more than count, so that a measure of whole rankings is one of their first `k`
        run = {query: {id: len(ids) - i for i, id in enumerate(ids[:k])} for query, ids in ranked.items() if ids}
        values = dict.fromkeys(judgements, 0.0)
        if run:
            measure = getattr(ir_measures, name)
            measure = measure if name in WITHOUT_CUTOFF else measure @ k
            values.update((query, value) for query, _, value in ir_measures.iter_calc([measure], judgements, run))
        results.append(values)
    return results


def _grades(query, judged):
    if isinstance(judged, str):
        raise ValueError(f"The relevant passages of query `{query}` must be a list of ids, got {judged!r}.")
    grades = dict(judged) if isinstance(judged, dict) else dict.fromkeys(judged, 1)
    check_text_ids(f"`relevance` of query `{query}` has", grades)
    grades = {id: _whole_number(query, id, grade) for id, grade in grades.items()}
    if not any(grade > 0 for grade in grades.values()):
        raise ValueError(
            f"Query `{query}` has no relevant passage, so that no metric is defined for it: leave it out."
        )
    return grades


def _whole_number(query, id, grade):
    is_whole = isinstance(grade, Integral) or (isinstance(grade, Real) and float(grade).is_integer())
    if not is_whole or abs(grade) > LARGEST_GRADE:
        raise ValueError(
            f"`relevance` of query `{query}` has the grade {grade!r} for `{id}`: grades are whole numbers, at most "
            f"{LARGEST_GRADE:,}."
        )
    return int(grade)


__all__ = ["average_precision", "ndcg_at_k", "recall_at_k", "reciprocal_rank", "success_at_k"]
