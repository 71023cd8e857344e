"""Several measures of a ranking at once, over all queries and by language."""

import math
import re

from .answers import first_answer_ranks
from .rankings import by_query, ranked_ids
from .retrieval import WITHOUT_CUTOFF, measure_queries


# What `ir-measures` calls them
RELEVANCE_MEASURES = {"R": "R", "Success": "Success", "RR": "RR", "nDCG": "nDCG", "MAP": "AP"}
ANSWER_MEASURE = "Answer"
MEANS = {"macro", "mean"}
MEASURE = re.compile(r"(\w+?)(?:@(\d+))?")
BY_RELEVANCE = ("R@1", "R@5", "R@10", "RR@10", "nDCG@10")
BY_ANSWER = ("Answer@1", "Answer@5", "Answer@20", "Answer@100")


def evaluate_rankings(
    rankings, relevance=None, measures=None, groups=None, *, answers=None, passages=None, per_query=False
):
    r"""
    What several measures say of a ranking, over all queries and by language.

    | measure | function | from |
    |---|---|---|
    | `R@k` | [`recall_at_k`] | `relevance` |
    | `Success@k` | [`success_at_k`] | `relevance` |
    | `RR@k`, `RR` | [`reciprocal_rank`] | `relevance` |
    | `nDCG@k` | [`ndcg_at_k`] | `relevance` |
    | `MAP@k`, `MAP` | [`average_precision`] | `relevance` |
    | `Answer@k` | [`answer_recall_at_k`], DPR's accuracy | `answers` and `passages` |

    Args:
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            For each query's id, passages' ids best first, or scores, of which equal ones are ranked by id.
        relevance (`dict[str, Iterable[str]]` or `dict[str, dict[str, int]]`, *optional*):
            For each query's id, the ids of its relevant passages, or their grades. These are the queries that count.
        measures (`list[str]`, *optional*):
            Defaults to `R@1`, `R@5`, `R@10`, `RR@10` and `nDCG@10` where there is `relevance`, and to `Answer@1`,
            `Answer@5`, `Answer@20` and `Answer@100` where there are only `answers`.
        groups (`dict[str, str]`, *optional*):
            The language, or another group, of each query.
        answers (`dict[str, list[str]]`, *optional*):
            For each query's id, its short answers; these are the queries that count for `Answer@k`.
        passages (`datasets.Dataset` or `list[dict]`, *optional*):
            Rows with `id` and `text`, in which `Answer@k` looks for answers.
        per_query (`bool`, *optional*, defaults to `False`):
            Whether to return each query's value instead of means, as [`compare_runs`] takes them.

    Returns:
        `dict[str, dict[str, float]]`: For each measure `"mean"`, over all queries, and with `groups` the mean of each
        group and `"macro"`, the mean of these; with `per_query=True` each query's value. All between 0 and 1.

    Raises:
        ValueError: If a measure is unknown or lacks what it is computed from, a query that counts has no group, a
            ranked passage that `Answer@k` would look at is not among `passages`, or as [`recall_at_k`] raises.

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
        values |= zip(by_relevance, measure_queries(rankings, relevance, by_relevance.values()), strict=True)
    if by_answer:
        values |= _answer_values(rankings, answers, passages, by_answer)
    values = {name: values[name] for name in parsed}
    return values if per_query else {name: means_by_group(each, groups) for name, each in values.items()}


def means_by_group(values, groups=None):
    r"""
    The means of queries' values.

    Args:
        values (`dict[str, float]`):
            Each query's value by a measure.
        groups (`dict[str, str]`, *optional*):
            The language, or another group, of each query.

    Returns:
        `dict[str, float]`: `"mean"`, over all queries, and with `groups` the mean of each group and `"macro"`, the
        mean of these.

    Raises:
        ValueError: If a query has no group, or a group has the name of a mean.

    Example:
    ```python
    >>> from hf_xlir.evaluation.measures import means_by_group

    >>> means_by_group({"q1": 1.0, "q2": 0.5, "q3": 0.0}, {"q1": "fi", "q2": "fi", "q3": "ko"})
    {'fi': 0.75, 'ko': 0.0, 'macro': 0.375, 'mean': 0.5}

    ```
    """
    mean = math.fsum(values.values()) / len(values)
    if groups is None:
        return {"mean": mean}
    of_group = {}
    for query, value in values.items():
        if query not in groups:
            raise ValueError(f"The query `{query}` has no group in `groups`.")
        of_group.setdefault(groups[query], []).append(value)
    reserved = sorted(MEANS & of_group.keys())
    if reserved:
        raise ValueError(f"A group cannot be called {reserved[0]!r}, which is the name of a mean.")
    means = {group: math.fsum(of_group[group]) / len(of_group[group]) for group in sorted(of_group)}
    return {**means, "macro": math.fsum(means.values()) / len(means), "mean": mean}


def parse_measure(name):
    r"""
    What a measure's name means.

    Args:
        name (`str`):
            Such as `"nDCG@10"`; see [`evaluate_rankings`].

    Returns:
        `tuple[str, int or None]`: The name that `ir-measures` has for it, or `"Answer"`, and the cutoff.

    Raises:
        ValueError: If there is no such measure, or it needs a cutoff.
    """
    match = MEASURE.fullmatch(name) if isinstance(name, str) else None
    kind, k = match.groups() if match else (None, None)
    known = {**RELEVANCE_MEASURES, ANSWER_MEASURE: ANSWER_MEASURE}
    if kind not in known or (k is None and known[kind] not in WITHOUT_CUTOFF) or (k is not None and int(k) < 1):
        raise ValueError(
            f"{name!r} is no measure. Choose among R@k, Success@k, RR@k, RR, nDCG@k, MAP@k, MAP and Answer@k, with a "
            "positive number for k."
        )
    return known[kind], None if k is None else int(k)


def parse_measures(measures, with_relevance, with_answers):
    r"""
    What the measures' names mean, once it is sure that they can be computed.

    Args:
        measures (`list[str]`, *optional*):
            See [`evaluate_rankings`], and its defaults.
        with_relevance, with_answers (`bool`):
            Whether there are judgements, and answers with passages.

    Returns:
        `dict[str, tuple[str, int or None]]`: By each name what [`parse_measure`] returns.

    Raises:
        ValueError: If a measure is unknown or lacks what it is computed from.
    """
    if not with_relevance and not with_answers:
        raise ValueError("Give `relevance`, or `answers` and `passages`: there is nothing to measure against.")
    if measures is None:
        measures = BY_RELEVANCE if with_relevance else BY_ANSWER
    parsed = {name: parse_measure(name) for name in _distinct(measures)}
    by_answer = [name for name, (kind, _) in parsed.items() if kind == ANSWER_MEASURE]
    by_relevance = [name for name in parsed if name not in by_answer]
    if by_relevance and not with_relevance:
        raise ValueError(f"{_listed(by_relevance)} need `relevance`; with `answers` only `Answer@k` can be computed.")
    if by_answer and not with_answers:
        raise ValueError(f"{_listed(by_answer)} need `answers` and `passages`.")
    return parsed


def _answer_values(rankings, answers, passages, cutoffs):
    if not answers:
        raise ValueError("`answers` is empty: give the answers of at least one query.")
    from .texts import texts_by_id  # which waits for `datasets`

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


def _distinct(measures):
    if isinstance(measures, str) or not measures:
        raise ValueError(f"`measures` must be a list of at least one name, got {measures!r}.")
    return list(dict.fromkeys(measures))


def _listed(names):
    return ", ".join(f"`{name}`" for name in names)


__all__ = ["evaluate_rankings", "means_by_group", "parse_measure", "parse_measures"]
