"""Rank metrics over relevance judgements (by `ir-measures`) and over answers, one at a time or several at once."""

import math
import re
from numbers import Integral, Real

from ..utils.checks import check_integer, quoted
from .answers import first_answer_ranks
from .rankings import by_query, check_text_ids, ranked_ids, texts_by_id


# Our names of measures, and the names in `ir_measures`
RELEVANCE_MEASURES = {"R": "R", "Success": "Success", "RR": "RR", "nDCG": "nDCG", "MAP": "AP"}
ANSWER_MEASURE = "Answer"
WITHOUT_CUTOFF = ("AP", "RR")  # also defined on a whole ranking
MEANS = {"macro", "mean"}
MEASURE = re.compile(r"(\w+?)(?:@(\d+))?")
BY_RELEVANCE = ("R@1", "R@5", "R@10", "RR@10", "nDCG@10")
BY_ANSWER = ("Answer@1", "Answer@5", "Answer@20", "Answer@100")
LARGEST_GRADE = 1_000_000  # trec_eval keeps grades in 32 bits, and a table as long as the largest grade


def recall_at_k(rankings, relevance, k, per_query=False):
    r"""
    R@k: the share of a query's relevant passages among the first `k`, averaged over queries.

    With one relevant passage per query this equals [`success_at_k`]. With several it does not: papers after DPR report
    `success_at_k` or [`answer_recall_at_k`] under the name of recall.

    Args:
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            For each query id, passage ids with the best first, or a score per passage id. Higher scores are better;
            equal scores are ordered by id.
        relevance (`dict[str, Iterable[str]]` or `dict[str, dict[str, int]]`):
            For each query id, the ids of its relevant passages, or a grade per passage id. Grades above 0 are
            relevant; grades below 0 count as 0. Only these queries count: a query without a ranking has the value 0,
            and rankings of other queries are ignored.
        k (`int`):
            Number of passages to look at.
        per_query (`bool`, *optional*, defaults to `False`):
            Whether to return the value of each query instead of the mean.

    Returns:
        `float` between 0 and 1, or `dict[str, float]` with `per_query=True`.

    Raises:
        ValueError: If there are no judgements, a query has no relevant passage, a grade is not a whole number or
            exceeds a million, a ranking names a passage twice or has a score that is not a number, an id is not a
            string, no ranking belongs to a judged query, or `k` is below 1.

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
    The share of queries with at least one relevant passage among the first `k`, as tables in the style of DPR report.

    Arguments, result and errors are those of [`recall_at_k`].

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
    1 / rank of a query's first relevant passage, or 0 if none is among the first `k`, averaged over queries (MRR).

    Arguments, result and errors are those of [`recall_at_k`]; `k=None`, the default, looks at whole rankings.

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
    Normalised discounted cumulative gain: the sum over the first `k` of grade / log2(rank + 1), divided by the sum of
    an ideal ranking, averaged over queries. The gain is the grade itself, as in `trec_eval`.

    Arguments, result and errors are those of [`recall_at_k`]; relevant passages without grades have grade 1.

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
    The precision at the rank of each relevant passage, summed over those among the first `k`, divided by the number of
    relevant passages and averaged over queries (MAP).

    Arguments, result and errors are those of [`recall_at_k`]; `k=None`, the default, looks at whole rankings.

    Example:
    ```python
    >>> from hf_xlir.evaluation import average_precision

    >>> average_precision({"q1": ["b", "a", "c", "d"]}, {"q1": ["b", "d"]})  # (1/1 + 2/4) / 2
    0.75

    ```
    """
    return _evaluate("AP", rankings, relevance, k, per_query)


def evaluate_rankings(
    rankings, relevance=None, measures=None, groups=None, *, answers=None, passages=None, per_query=False
):
    r"""
    Compute several measures of a ranking, over all queries and by language.

    | measure | function | computed from |
    |---|---|---|
    | `R@k` | [`recall_at_k`] | `relevance` |
    | `Success@k` | [`success_at_k`] | `relevance` |
    | `RR@k`, `RR` | [`reciprocal_rank`] | `relevance` |
    | `nDCG@k` | [`ndcg_at_k`] | `relevance` |
    | `MAP@k`, `MAP` | [`average_precision`] | `relevance` |
    | `Answer@k` | [`answer_recall_at_k`], DPR's accuracy | `answers` and `passages` |

    Args:
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            As for [`recall_at_k`].
        relevance (`dict[str, Iterable[str]]` or `dict[str, dict[str, int]]`, *optional*):
            As for [`recall_at_k`].
        measures (`list[str]`, *optional*):
            Defaults to `R@1`, `R@5`, `R@10`, `RR@10` and `nDCG@10` with `relevance`, and to `Answer@1`, `Answer@5`,
            `Answer@20` and `Answer@100` with `answers` alone.
        groups (`dict[str, str]`, *optional*):
            The language, or another group, of each query.
        answers (`dict[str, list[str]]`, *optional*):
            Short answers for each query id. Only these queries count for `Answer@k`.
        passages (`datasets.Dataset` or `list[dict]`, *optional*):
            Rows with `id` and `text`, in which `Answer@k` looks for answers.
        per_query (`bool`, *optional*, defaults to `False`):
            Whether to return the value of each query instead of means, as [`compare_runs`] takes them.

    Returns:
        `dict[str, dict[str, float]]`: For each measure `"mean"`, the mean over all queries. With `groups` also the
        mean of each group, and `"macro"`, the mean over groups. With `per_query=True` the value of each query. All
        values are between 0 and 1.

    Raises:
        ValueError: If a measure is unknown or its input is missing, a query that counts has no group, or a ranked
            passage that `Answer@k` needs is not among `passages`; and as [`recall_at_k`] raises.

    Example:
    ```python
    >>> from hf_xlir.evaluation import evaluate_rankings

    >>> rankings = {"q1": ["a", "b"], "q2": ["a", "b"], "q3": ["b", "a"]}
    >>> relevance, languages = {"q1": ["b"], "q2": ["a"], "q3": ["c"]}, {"q1": "fi", "q2": "fi", "q3": "ko"}
    >>> evaluate_rankings(rankings, relevance, ["Success@2", "RR"], languages)["RR"]
    {'fi': 0.75, 'ko': 0.0, 'macro': 0.375, 'mean': 0.5}

    ```
    """
    parsed = parse_measures(measures, relevance is not None, answers is not None and passages is not None)
    by_relevance = {name: each for name, each in parsed.items() if each[0] != ANSWER_MEASURE}
    by_answer = {name: k for name, (kind, k) in parsed.items() if kind == ANSWER_MEASURE}
    values = {}
    if by_relevance:
        values |= zip(by_relevance, _relevance_values(rankings, relevance, by_relevance.values()), strict=True)
    if by_answer:
        values |= _answer_values(rankings, answers, passages, by_answer)
    values = {name: values[name] for name in parsed}
    return values if per_query else {name: means_by_group(each, groups) for name, each in values.items()}


def parse_measures(measures=None, with_relevance=True, with_answers=True):
    r"""
    Parse names of measures, and check that they can be computed. A script calls this before long work.

    Args:
        measures (`list[str]`, *optional*):
            Such as `["nDCG@10", "Answer@20"]`; names and defaults as for [`evaluate_rankings`].
        with_relevance, with_answers (`bool`, *optional*, defaults to `True`):
            Whether there are relevance judgements, and answers with passages.

    Returns:
        `dict[str, tuple[str, int or None]]`: For each name, the measure's name in `ir-measures`, or `"Answer"`, and
        the cutoff.

    Raises:
        ValueError: If a measure is unknown, lacks a cutoff that it needs, or its input is missing.

    Example:
    ```python
    >>> from hf_xlir.evaluation import parse_measures

    >>> parse_measures(["nDCG@10", "MAP"])
    {'nDCG@10': ('nDCG', 10), 'MAP': ('AP', None)}

    ```
    """
    if not with_relevance and not with_answers:
        raise ValueError("There is nothing to measure against: give `relevance`, or `answers` and `passages`.")
    if measures is None:
        measures = BY_RELEVANCE if with_relevance else BY_ANSWER
    if isinstance(measures, str) or not measures:
        raise ValueError(f"`measures` must be a list of at least one name, got {measures!r}.")
    parsed = {name: _parse_measure(name) for name in dict.fromkeys(measures)}
    by_answer = [name for name, (kind, _) in parsed.items() if kind == ANSWER_MEASURE]
    by_relevance = [name for name in parsed if name not in by_answer]
    if by_relevance and not with_relevance:
        raise ValueError(f"{quoted(by_relevance)} need `relevance`: with `answers` alone, choose `Answer@k`.")
    if by_answer and not with_answers:
        raise ValueError(f"{quoted(by_answer)} need `answers` and `passages`.")
    return parsed


def means_by_group(values, groups=None):
    """`{"mean": ...}` of the queries' values; with `groups` also the mean of each group, and `"macro"` over groups."""
    mean = math.fsum(values.values()) / len(values)
    if groups is None:
        return {"mean": mean}
    grouped = {}
    for query, value in values.items():
        if query not in groups:
            raise ValueError(f"The query `{query}` has no group in `groups`.")
        grouped.setdefault(groups[query], []).append(value)
    reserved = sorted(MEANS & grouped.keys())
    if reserved:
        raise ValueError(f"A group is called {reserved[0]!r}, which is reserved for a mean: rename it.")
    means = {group: math.fsum(grouped[group]) / len(grouped[group]) for group in sorted(grouped)}
    return {**means, "macro": math.fsum(means.values()) / len(means), "mean": mean}


def _evaluate(name, rankings, relevance, k, per_query):
    if k is not None or name not in WITHOUT_CUTOFF:
        k = check_integer("k", k)
    (values,) = _relevance_values(rankings, relevance, [(name, k)])
    return values if per_query else math.fsum(values.values()) / len(values)


def _relevance_values(rankings, relevance, measures):
    """For each measure, as `(name in ir_measures, cutoff)`, the value of each judged query."""
    import ir_measures

    check_text_ids("`relevance`", relevance)
    judgements = {query: _grades(query, judged) for query, judged in relevance.items()}
    if not judgements:
        raise ValueError("`relevance` is empty: give the relevant passages of at least one query.")
    rankings = by_query(rankings)
    ranked = {query: ranked_ids(query, rankings[query]) for query in judgements if query in rankings}
    if rankings and not ranked:
        raise ValueError(
            f"No ranking belongs to a judged query: `rankings` has {list(rankings)[:3]}, `relevance` has "
            f"{list(judgements)[:3]}. Use the same ids in both."
        )
    results = []
    for name, k in measures:
        # trec_eval sorts by score itself, in float32 and with ties by id from z to a: give it distinct small numbers,
        # and only the first `k`, so that a measure of whole rankings becomes one of their first `k`
        run = {query: {id: len(ids) - i for i, id in enumerate(ids[:k])} for query, ids in ranked.items() if ids}
        values = dict.fromkeys(judgements, 0.0)
        if run:
            measure = getattr(ir_measures, name)
            measure = measure if name in WITHOUT_CUTOFF else measure @ k
            values.update((query, value) for query, _, value in ir_measures.iter_calc([measure], judgements, run))
        results.append(values)
    return results


def _answer_values(rankings, answers, passages, cutoffs):
    if not answers:
        raise ValueError("`answers` is empty: give the answers of at least one query.")
    depth = max(cutoffs.values())
    rankings = {
        query: ranked_ids(query, ranking)[:depth] for query, ranking in by_query(rankings).items() if query in answers
    }
    text_of_id = texts_by_id({id for ids in rankings.values() for id in ids}, passages)
    texts = [[text_of_id[id] for id in rankings.get(query, ())] for query in answers]
    ranks = first_answer_ranks(texts, list(answers.values()), depth)
    return {
        name: {query: float(rank <= k) for query, rank in zip(answers, ranks, strict=True)}
        for name, k in cutoffs.items()
    }


def _grades(query, judged):
    if isinstance(judged, str):
        raise ValueError(f"The relevant passages of query `{query}` must be a list of ids, got {judged!r}.")
    grades = dict(judged) if isinstance(judged, dict) else dict.fromkeys(judged, 1)
    check_text_ids(f"`relevance` of query `{query}`", grades)
    grades = {id: _whole_number(query, id, grade) for id, grade in grades.items()}
    if not any(grade > 0 for grade in grades.values()):
        raise ValueError(f"Query `{query}` has no relevant passage, so metrics are undefined for it: leave it out.")
    return grades


def _whole_number(query, id, grade):
    is_whole = isinstance(grade, Integral) or (isinstance(grade, Real) and float(grade).is_integer())
    if not is_whole or abs(grade) > LARGEST_GRADE:
        raise ValueError(
            f"`relevance` of query `{query}` has the grade {grade!r} for `{id}`: grades are whole numbers, at most "
            f"{LARGEST_GRADE:,}."
        )
    return int(grade)


def _parse_measure(name):
    """The name in `ir_measures`, or `"Answer"`, and the cutoff or `None`."""
    match = MEASURE.fullmatch(name) if isinstance(name, str) else None
    kind, k = match.groups() if match else (None, None)
    known = {**RELEVANCE_MEASURES, ANSWER_MEASURE: ANSWER_MEASURE}
    if kind not in known or (k is None and known[kind] not in WITHOUT_CUTOFF) or (k is not None and int(k) < 1):
        raise ValueError(
            f"{name!r} is not a measure. Choose from R@k, Success@k, RR@k, RR, nDCG@k, MAP@k, MAP and Answer@k, with "
            "a positive number for k."
        )
    return known[kind], None if k is None else int(k)


__all__ = [
    "average_precision",
    "evaluate_rankings",
    "ndcg_at_k",
    "parse_measures",
    "recall_at_k",
    "reciprocal_rank",
    "success_at_k",
]
