"""Relevance judgements from files: TREC's qrels, and BEIR's tables."""

import os

from transformers.utils import logging

from ..data.building import resolve_file
from ..data.reading import RowErrors, read_lines


logger = logging.get_logger(__name__)

BEIR_HEADER = ["query-id", "corpus-id", "score"]


def load_qrels(path, on_error="raise"):
    r"""
    Read which passages are relevant to which queries. The format is recognised by content, gzipped or not:

    - TREC's: query, iteration (which is left aside), passage and grade, with tabs or other white space between;
    - BEIR's: query, passage and grade with tabs between, perhaps under the header `query-id`, `corpus-id`, `score`.

    Queries without a passage of a grade above 0 are left out, since no metric is defined for them; how many is logged.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs how many and the first of them.

    Returns:
        `dict[str, dict[str, int]]`: For each query the grades of the judged passages, as the metrics take them.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If no query has a relevant passage; or if a row is blank, is not UTF-8, has other columns than the
            first, a grade that is no whole number, or judges a passage twice for a query; the message names file, line
            and reason.

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
    """Yield `(line number, query, passage, grade)` of each row, checked; bad ones go to `errors`, a [`RowErrors`]."""
    name, split, seen = os.fspath(path), None, set()
    for number, line in read_lines(resolve_file(path), name, errors):
        if split is None:
            split = _split_trec if _split_trec(line) is not None else _split_beir
            if split is _split_beir and [field.strip().lower() for field in line.split("\t")] == BEIR_HEADER:
                continue
            if split(line) is None:
                raise ValueError(
                    f"`{name}`, line {number}: expected TREC's query, iteration, passage and grade, or BEIR's query, "
                    f"passage and grade with tabs between, got {line[:80]!r}."
                )
        fields = split(line)
        if fields is None:
            errors.bad(name, number, f"it has not the columns of the first line: {line[:80]!r}")
            continue
        query, passage, grade = fields
        if not query.strip() or not passage.strip():
            errors.bad(name, number, "it has no query, or no passage")
        elif not grade.strip().removeprefix("-").isdecimal():
            errors.bad(name, number, f"the grade {grade!r} is no whole number")
        elif (query, passage) in seen:
            errors.bad(name, number, f"the passage `{passage}` has been judged before for the query `{query}`")
        else:
            seen.add((query, passage))
            yield number, query, passage, int(grade)


def with_relevant(qrels, name):
    """The queries that have a relevant passage; how many have not is logged, and that none has is a `ValueError`."""
    kept = {query: grades for query, grades in qrels.items() if max(grades.values()) > 0}
    if not kept:
        raise ValueError(f"`{name}` has no relevant passage, that is none with a grade above 0, of any query.")
    if len(kept) < len(qrels):
        without = [query for query in qrels if query not in kept]
        logger.warning(f"`{name}`: left out {len(without)} queries without a relevant passage, such as {without[:5]}.")
    return kept


def _split_trec(line):
    """Query, passage and grade of a line of TREC's, or `None`; tabs, if they suffice, part ids with spaces."""
    fields = line.split("\t") if line.count("\t") in (2, 3) else line.split()
    return (fields[0], fields[2], fields[3]) if len(fields) == 4 else None


def _split_beir(line):
    """Query, passage and grade of a line of BEIR's, or `None`."""
    fields = line.split("\t")
    return tuple(fields) if len(fields) == 3 else None


__all__ = ["load_qrels", "read_qrels"]
