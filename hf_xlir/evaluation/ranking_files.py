"""Rankings and relevance judgements from and to files: TREC, ColBERT, BEIR, JSON lines."""

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

RANKING_FORMATS = ("trec", "colbert", "jsonl")
BEIR_HEADER = ["query-id", "corpus-id", "score"]


def load_ranking(path, on_error="raise"):
    r"""
    Read a ranking. The format is recognised by content, gzipped or not:

    - ColBERT's table: query, passage, rank and optionally score, separated by tabs;
    - a TREC run: query, `Q0`, passage, rank, score and the run's name, separated by white space;
    - JSON lines, or one JSON array, of `{"id": query, "ctxs": [{"id": passage, "score": score}, ...]}`. Scores are
      optional, and other fields are ignored, so that a reader's examples can be read.

    Passages are ordered by score, and passages with equal scores by id; ranks are ignored. Without scores they
    are ordered by rank, or keep the order of the JSON list.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs their number and the first of them.

    Returns:
        [`RankedPassages`]: `scores` is empty if the file has none.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If there is no row; or if a row is blank, is not UTF-8, differs in its columns from the first row,
            has a rank that is not a whole number or a score that is not a number, or names a passage twice for a
            query. The message gives file, line and reason.

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
    start = peek(file, name)  # an id in a table may also begin with a bracket
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
    Write a ranking in order, as [`load_ranking`] reads it. Reading it again gives the same ranking, to the last digit
    of a score.

    Args:
        path (`str` or `os.PathLike`):
            The file. It is written completely or not at all.
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            For each query id, passage ids with the best first, or a score per passage id.
        format (`str`, *optional*, defaults to `"trec"`):
            `"trec"`, a TREC run, with the negated rank as the score where there are no scores; `"colbert"`, a table;
            or `"jsonl"`. Only `"jsonl"` keeps queries for which nothing was found.
        run_name (`str`, *optional*, defaults to `"hf_xlir"`):
            The last column of a TREC run.

    Raises:
        ValueError: If there is nothing to write, the format is unknown, the format cannot hold an id or the name, a
            passage occurs twice for a query, or a score is NaN or infinite. The file is then left as it was.

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
    check_choice("format", format, RANKING_FORMATS)
    rankings, scores = in_order(rankings)
    for query, ids in rankings.items():
        check_ranking_ids([query, *ids], format, f"The ranking of query {query!r} has the id")
    check_ranking_ids([run_name], format, "`run_name` is")
    for query, values in scores.items():
        if not all(map(math.isfinite, values)):
            raise ValueError(f"The ranking of query `{query}` has an infinite score, which files cannot hold.")
    lines = {"trec": _trec_lines, "colbert": _colbert_lines, "jsonl": _json_lines}[format]
    text = "".join(lines(rankings, scores, run_name))
    if not text:
        raise ValueError(f"`rankings` has nothing that the format {format!r} can hold.")
    write_text(path, text)


def check_ranking_ids(ids, format, what="`ids` has"):
    r"""
    Check that a format of [`save_ranking`] can hold ids. A script calls this before long work.

    Args:
        ids (`Iterable[str]`):
            Ids of queries or passages, or names of runs.
        format (`str`):
            `"trec"`, `"colbert"` or `"jsonl"`.
        what (`str`, *optional*, defaults to "`ids` has"):
            How the message of an error begins; the id follows.

    Raises:
        ValueError: If the format cannot hold an id.

    Example:
    ```python
    >>> from hf_xlir.evaluation import check_ranking_ids

    >>> check_ranking_ids(["q1", "New York"], "colbert")

    ```
    """
    for id in ids:
        if not isinstance(id, str) or not id.strip():
            raise ValueError(f"{what} {id!r}: ids are non-empty strings.")
        if format == "trec" and id.split() != [id]:
            raise ValueError(f"{what} {id!r}, with white space, which a TREC run cannot hold: use another format.")
        if format == "colbert" and any(character in id for character in "\t\n\r"):
            raise ValueError(f"{what} {id!r}, with a tab or a new line, which a table cannot hold: use 'jsonl'.")
        if format != "jsonl" and id.startswith("\ufeff"):  # at the start of a file it would be lost
            raise ValueError(f"{what} {id!r}, which starts with a byte order mark: use the format 'jsonl'.")


def load_qrels(path, on_error="raise"):
    r"""
    Read relevance judgements. The format is recognised by content, gzipped or not:

    - TREC's qrels: query, iteration (ignored), passage and grade, separated by tabs or other white space;
    - BEIR's table: query, passage and grade, separated by tabs, with or without the header `query-id`, `corpus-id`,
      `score`.

    Queries without a passage of a grade above 0 are left out, because metrics are undefined for them. Their number is
    logged.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs their number and the first of them.

    Returns:
        `dict[str, dict[str, int]]`: For each query the grades of its judged passages, as the metrics take them.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If no query has a relevant passage; or if a row is blank, is not UTF-8, differs in its columns from
            the first row, has a grade that is not a whole number, or judges a passage twice for a query. The message
            gives file, line and reason.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.evaluation import load_qrels

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "qrels.txt").write_text("q1 0 a 0\nq1 0 b 2\n")
    ...     load_qrels(Path(folder, "qrels.txt"))
    {'q1': {'a': 0, 'b': 2}}

    ```
    """
    errors = RowErrors(on_error)
    qrels = {}
    for _, query, passage, grade in read_qrels(path, errors):
        qrels.setdefault(query, {})[passage] = grade
    if errors.count:
        logger.warning(errors.report())
    return with_relevant(qrels, os.fspath(path))


def read_qrels(path, errors):
    """Yield `(line number, query, passage, grade)` of each row, checked; bad rows go to `errors`, a [`RowErrors`]."""
    name, split, seen = os.fspath(path), None, set()
    for number, line in read_lines(resolve_file(path), name, errors):
        if split is None:
            split = _split_trec_qrels if _split_trec_qrels(line) is not None else _split_beir_qrels
            if split is _split_beir_qrels and [field.strip().lower() for field in line.split("\t")] == BEIR_HEADER:
                continue
            if split(line) is None:
                raise ValueError(
                    f"`{name}`, line {number}: expected TREC's query, iteration, passage and grade, or BEIR's query, "
                    f"passage and grade separated by tabs, got {line[:80]!r}."
                )
        fields = split(line)
        if fields is None:
            errors.bad(name, number, f"its columns differ from the first line's: {line[:80]!r}")
            continue
        query, passage, grade = fields
        if not query.strip() or not passage.strip():
            errors.bad(name, number, "it has no query, or no passage")
        elif not grade.strip().removeprefix("-").isdecimal():
            errors.bad(name, number, f"the grade {grade!r} is not a whole number")
        elif (query, passage) in seen:
            errors.bad(name, number, f"the passage `{passage}` was judged before for the query `{query}`")
        else:
            seen.add((query, passage))
            yield number, query, passage, int(grade)


def with_relevant(qrels, name):
    """The queries that have a relevant passage, at least one. The number of the others is logged."""
    kept = {query: grades for query, grades in qrels.items() if max(grades.values()) > 0}
    if not kept:
        raise ValueError(f"`{name}` has no relevant passage: all grades are 0 or below.")
    if len(kept) < len(qrels):
        without = [query for query in qrels if query not in kept]
        logger.warning(f"`{name}`: left out {len(without)} queries without a relevant passage, such as {without[:5]}.")
    return kept


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
    """For each query the passages by rank, or a score per passage."""
    split, has_scores, found = None, False, {}  # for each query, the score or rank of each passage
    for number, line in read_lines(file, name, errors):
        if split is None:
            split = _split_of(line)
            if split is None:
                raise ValueError(
                    f"`{name}`, line {number}: expected query, passage, rank and optionally score separated by tabs, "
                    f"a TREC run's query, Q0, passage, rank, score and name, or JSON, got {line[:80]!r}."
                )
        fields = split(line)
        if fields is None:
            errors.bad(name, number, f"its columns differ from the first line's: {line[:80]!r}")
            continue
        query, passage, rank, score = fields
        reason = _fault(query, passage, rank, score)
        if reason is None and passage in found.get(query, ()):
            reason = f"the passage `{passage}` occurred before for the query `{query}`"
        if reason is not None:
            errors.bad(name, number, reason)
            continue
        has_scores = score is not None
        found.setdefault(query, {})[passage] = float(score) if has_scores else int(rank)
    if has_scores:
        return found
    return {query: sorted(ranks, key=lambda id, ranks=ranks: (ranks[id], id)) for query, ranks in found.items()}


def _split_of(first_line):
    """A function that splits lines like the first into query, passage, rank and score, or `None` for a bad line."""
    return _split_trec if _split_trec(first_line) is not None else _split_tabs(first_line)


def _split_trec(line):
    """Query, passage, rank and score of a TREC run's line, or `None`."""
    fields = line.split()
    return (fields[0], *fields[2:5]) if len(fields) == 6 and fields[1].upper() == "Q0" else None


def _split_tabs(first_line):
    """A function that splits lines with as many columns as the first, or `None` unless it has three or four."""
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
        return f"the rank {rank!r} is not a whole number"
    return None if score is None else _fault_of_score(score)


def _fault_of_score(score):
    try:
        if isinstance(score, bool) or not isinstance(score, str | int | float) or "_" in str(score):
            raise ValueError  # Python itself reads `1_000`
        return "the score is NaN" if math.isnan(float(score)) else None
    except (ValueError, OverflowError):
        return f"the score {score!r} is not a number"


def _read_objects(file, name, errors):
    """For each query the passages in the order of the list, or a score per passage."""
    found, has_scores = {}, None
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
            reason = f"the passage `{next(id for i, id in enumerate(ids) if id in ids[:i])}` occurs twice"
        elif query in found:
            reason = f"the query `{query}` occurred before"
        elif any((score is not None) != scored for score in scores):
            reason = "some passages in the file have a `score`, others have none"
        elif scored:
            reason = next(filter(None, map(_fault_of_score, scores)), None)
        if reason is not None:
            errors.bad(name, number, reason)
            continue
        has_scores = scored
        found[query] = dict(zip(ids, map(float, scores), strict=True)) if scored else ids
    return found


def _checked_id(id):
    """An id as text, or `None` if it is not valid."""
    id = text_of_id(id)
    return id if isinstance(id, str) and id.strip() else None


def _split_trec_qrels(line):
    """Query, passage and grade of a line of TREC's qrels, or `None`. Tabs, if they suffice, allow ids with spaces."""
    fields = line.split("\t") if line.count("\t") in (2, 3) else line.split()
    return (fields[0], fields[2], fields[3]) if len(fields) == 4 else None


def _split_beir_qrels(line):
    """Query, passage and grade of a line of BEIR's qrels, or `None`."""
    fields = line.split("\t")
    return tuple(fields) if len(fields) == 3 else None


__all__ = ["RANKING_FORMATS", "check_ranking_ids", "load_qrels", "load_ranking", "save_ranking"]
