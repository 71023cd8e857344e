"""Rankings from and to files: TREC runs, ColBERT's tables, JSON lines."""

import json
import math
import os

from transformers.utils import logging

from ..data.building import resolve_file
from ..data.reading import RowErrors, peek, read_json_objects, read_lines
from ..utils.checks import check_choice
from ..utils.files import write_text
from .rankings import in_order, text_of_id


logger = logging.get_logger(__name__)

FORMATS = ("trec", "colbert", "jsonl")


def load_ranking(path, on_error="raise"):
    r"""
    Read a ranking. The format is recognised by content, gzipped or not:

    - ColBERT's: query, passage, rank and perhaps score, with tabs between;
    - a TREC run: query, `Q0`, passage, rank, score and the run's name, with white space between;
    - JSON lines, or one JSON array, of `{"id": query, "ctxs": [{"id": passage, "score": score}, ...]}`, perhaps
      without scores; what else there is in an object is left aside, so that a reader's examples can be read.

    Passages are ordered by score, and of equal scores by id as text, whatever the ranks say. Without scores they are
    ordered by rank, or stay in the order of the JSON list.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs how many and the first of them.

    Returns:
        [`RankedPassages`]: `scores` is empty where the file has none.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If there is no row, or one is blank, is not UTF-8, has other columns than the first, a rank that is
            no whole number, a score that is no number, or names a passage twice for a query; the message names file,
            line and reason.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.evaluation import load_ranking

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "run.trec").write_text("q1 Q0 a 2 7.5 bm25\nq1 Q0 b 1 8.5 bm25\n")
    ...     load_ranking(Path(folder, "run.trec"))
    RankedPassages(rankings={'q1': ['b', 'a']}, scores={'q1': [8.5, 7.5]})

    ```
    """
    name, errors = os.fspath(path), RowErrors(on_error)
    file = resolve_file(path)
    start = peek(file, name)  # of a table, an id may begin with a bracket, too
    first_line = start.partition(b"\n")[0].decode("utf-8", "replace")
    is_json = start.lstrip()[:1] in (b"{", b"[") and _split_of(first_line) is None
    rankings = (_read_objects if is_json else _read_table)(file, name, errors)
    if errors.count:
        logger.warning(errors.report())
    if not rankings:
        raise ValueError(f"`{name}` has no ranking.")
    return in_order(rankings)


def save_ranking(path, rankings, format="trec", run_name="hf_xlir"):
    r"""
    Write a ranking as [`load_ranking`] reads it, in its order: what is read again is the same, to the last digit of a
    score.

    Args:
        path (`str` or `os.PathLike`):
            The file, which is whole or not there.
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            For each query the passages' ids, best first, or their scores, of which equal ones are ordered by id.
        format (`str`, *optional*, defaults to `"trec"`):
            `"trec"`, a TREC run, whose score is the negated rank where there are no scores; `"colbert"`, a table; or
            `"jsonl"`. Only the last keeps queries for which nothing was found.
        run_name (`str`, *optional*, defaults to `"hf_xlir"`):
            The last column of a TREC run.

    Raises:
        ValueError: If there is nothing to write, the format is unknown, an id or the name is one that the format
            cannot hold, a passage is there twice for a query, or a score is NaN or infinite; the file is not touched.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.evaluation import save_ranking

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_ranking(Path(folder, "run.trec"), {"q1": {"b": 8.5, "a": 7.5}}, run_name="bm25")
    ...     print(Path(folder, "run.trec").read_text())
    q1 Q0 b 1 8.5 bm25
    q1 Q0 a 2 7.5 bm25
    <BLANKLINE>

    ```
    """
    check_choice("format", format, FORMATS)
    rankings, scores = in_order(rankings)
    for query, ids in rankings.items():
        for id in (query, *ids):
            check_id(id, format, f"The ranking of query {query!r} has the id")
    check_id(run_name, format, "`run_name` is")
    for query, values in scores.items():
        if not all(map(math.isfinite, values)):
            raise ValueError(f"The ranking of query `{query}` has a score that is infinite, which files cannot hold.")
    lines = {"trec": _trec_lines, "colbert": _colbert_lines, "jsonl": _json_lines}[format]
    text = "".join(lines(rankings, scores, run_name))
    if not text:
        raise ValueError(f"`rankings` has nothing that a file in the format {format!r} could hold.")
    write_text(path, text)


def check_id(id, format, what):
    """Raise for an id, or a name, that a format cannot hold; `what` begins the message: "`passages` has the id"."""
    if not isinstance(id, str) or not id.strip():
        raise ValueError(f"{what} {id!r}: ids are strings, not empty.")
    if format == "trec" and id.split() != [id]:
        raise ValueError(f"{what} {id!r}, with white space, which a TREC run cannot hold: take another format.")
    if format == "colbert" and any(character in id for character in "\t\n\r"):
        raise ValueError(f"{what} {id!r}, with a tab or a new line, which a table cannot hold: take another format.")
    if format != "jsonl" and id.startswith("\ufeff"):  # at the start of a file it would be no part of the id
        raise ValueError(f"{what} {id!r}, with a byte order mark in front: take the format 'jsonl'.")


def _trec_lines(rankings, scores, run_name):
    for query, ids in rankings.items():
        for rank, id in enumerate(ids, 1):
            score = scores[query][rank - 1] if scores else -rank
            yield f"{query} Q0 {id} {rank} {score!r} {run_name}\n"


def _colbert_lines(rankings, scores, _):
    for query, ids in rankings.items():
        for rank, id in enumerate(ids, 1):
            score = f"\t{scores[query][rank - 1]!r}" if scores else ""
            yield f"{query}\t{id}\t{rank}{score}\n"


def _json_lines(rankings, scores, _):
    for query, ids in rankings.items():
        if scores:
            ctxs = [{"id": id, "score": score} for id, score in zip(ids, scores[query], strict=True)]
        else:
            ctxs = [{"id": id} for id in ids]
        yield json.dumps({"id": query, "ctxs": ctxs}, ensure_ascii=False) + "\n"


def _read_table(file, name, errors):
    """For each query the passages by rank, or with their scores."""
    split, has_scores, of_query = None, False, {}  # for each query, the score or the rank of each passage
    for number, line in read_lines(file, name, errors):
        if split is None:
            split = _split_of(line)
            if split is None:
                raise ValueError(
                    f"`{name}`, line {number}: expected query, passage, rank and perhaps score with tabs between, or "
                    f"a TREC run's query, Q0, passage, rank, score and name, or JSON, got {line[:80]!r}."
                )
        fields = split(line)
        if fields is None:
            errors.bad(name, number, f"it has not the columns of the first line: {line[:80]!r}")
            continue
        query, passage, rank, score = fields
        reason = _fault(query, passage, rank, score)
        if reason is None and passage in of_query.get(query, ()):
            reason = f"the passage `{passage}` has occurred before for the query `{query}`"
        if reason is not None:
            errors.bad(name, number, reason)
            continue
        has_scores = score is not None
        of_query.setdefault(query, {})[passage] = float(score) if has_scores else int(rank)
    if has_scores:
        return of_query
    return {query: sorted(ranks, key=lambda id, ranks=ranks: (ranks[id], id)) for query, ranks in of_query.items()}


def _split_of(first_line):
    """A function that splits lines into query, passage, rank and score as the first one, or `None` if it is no row."""
    return _split_trec if _split_trec(first_line) is not None else _split_tabs(first_line)


def _split_trec(line):
    """Query, passage, rank and score of a TREC run's line, or `None`."""
    fields = line.split()
    return (fields[0], *fields[2:5]) if len(fields) == 6 and fields[1].upper() == "Q0" else None


def _split_tabs(first_line):
    """A function that splits lines with as many columns as the first, or `None` if they are not three or four."""
    width = first_line.count("\t") + 1
    if width not in (3, 4):
        return None

    def split(line):
        fields = line.split("\t")
        return (*fields, None)[:4] if len(fields) == width else None

    return split


def _fault(query, passage, rank, score):
    """What is wrong with a row, or `None`."""
    if not query.strip() or not passage.strip():
        return "it has no query, or no passage"
    if not rank.strip().isdecimal():
        return f"the rank {rank!r} is no whole number"
    return None if score is None else _fault_of_score(score)


def _fault_of_score(score):
    try:
        if isinstance(score, bool) or not isinstance(score, str | int | float) or "_" in str(score):
            raise ValueError  # Python itself reads `1_000`
        return "the score is NaN" if math.isnan(float(score)) else None
    except (ValueError, OverflowError):
        return f"the score {score!r} is no number"


def _read_objects(file, name, errors):
    """For each query the passages in the list's order, or with their scores."""
    of_query, has_scores = {}, None
    for number, row in read_json_objects(file, name, errors):
        query, ctxs = _checked_id(row.get("id")), row.get("ctxs")
        if query is None or not isinstance(ctxs, list) or not all(isinstance(each, dict) for each in ctxs):
            errors.bad(name, number, "it has no `id`, or no list `ctxs` of objects")
            continue
        ids, scores = [_checked_id(each.get("id")) for each in ctxs], [each.get("score") for each in ctxs]
        scored = scores[0] is not None if has_scores is None and scores else has_scores
        reason = None
        if None in ids:
            reason = "one of `ctxs` has no `id`"
        elif len(set(ids)) < len(ids):
            reason = f"the passage `{next(id for i, id in enumerate(ids) if id in ids[:i])}` is there twice"
        elif query in of_query:
            reason = f"the query `{query}` has occurred before"
        elif any((score is not None) != scored for score in scores):
            reason = "some passages of the file have a `score` and others have none"
        elif scored:
            reason = next(filter(None, map(_fault_of_score, scores)), None)
        if reason is not None:
            errors.bad(name, number, reason)
            continue
        has_scores = scored
        of_query[query] = dict(zip(ids, map(float, scores), strict=True)) if scored else ids
    return of_query


def _checked_id(id):
    """An id as text, or `None` if it is none."""
    id = text_of_id(id)
    return id if isinstance(id, str) and id.strip() else None


__all__ = ["check_id", "load_ranking", "save_ranking"]
