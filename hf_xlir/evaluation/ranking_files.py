"""Rankings of other systems, from the files that they write."""

import math
import os

from transformers.utils import logging

from ..data.building import resolve_file
from ..data.reading import RowErrors, read_lines
from .rankings import RankedPassages


logger = logging.get_logger(__name__)


def load_ranking(path, on_error="raise"):
    r"""
    Read a ranking. The format is recognised by the first line, gzipped or not:

    - ColBERT's: query, passage, rank and perhaps score, with tabs between;
    - a TREC run: query, `Q0`, passage, rank, score and the run's name, with white space between.

    Passages are ordered by score, and of equal scores or without scores by rank.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs how many and the first of them.

    Returns:
        [`RankedPassages`]: `scores` is empty where the file has none.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If there is no row, or one is blank, is not UTF-8, has another number of columns than the first, a
            rank that is no whole number, a score that is no number, or names a passage twice for a query; the message
            names file, line and reason.

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
    split, has_scores, of_query = None, False, {}  # for each query, (-score, rank) of each passage
    for number, line in read_lines(resolve_file(path), name, errors):
        if split is None:
            split = _split_trec if _split_trec(line) is not None else _split_tabs(line)
            if split is None:
                raise ValueError(
                    f"`{name}`, line {number}: expected query, passage, rank and perhaps score with tabs between, or "
                    f"a TREC run's query, Q0, passage, rank, score and name, got {line[:80]!r}."
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
        of_query.setdefault(query, {})[passage] = (-float(score) if has_scores else 0.0, int(rank))
    if errors.count:
        logger.warning(errors.report())
    if not of_query:
        raise ValueError(f"`{name}` has no ranking.")

    rankings = {query: sorted(places, key=places.get) for query, places in of_query.items()}
    scores = {query: [-of_query[query][id][0] for id in ids] for query, ids in rankings.items()} if has_scores else {}
    return RankedPassages(rankings, scores)


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
    try:
        if score is not None and math.isnan(float(score)):
            return "the score is NaN"
    except ValueError:
        return f"the score {score!r} is no number"
    return None


__all__ = ["load_ranking"]
