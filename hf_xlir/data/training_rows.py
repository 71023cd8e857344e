"""Training rows as [`RetrieverCollator`] takes them, from JSON: what mining and scoring write."""

import math
import os
from collections.abc import Iterator

from .building import build_dataset, resolve_file
from .features import TRAINING_ROW_FEATURES
from .json_reading import read_json_objects
from .reading import RowErrors


OPTIONAL_COLUMNS = ("id", "lang", "teacher_query", "teacher_scores")
ROWS_PER_BATCH = 1000  # of up to a hundred passages each


def load_training_rows(
    path: str | os.PathLike,
    num_negatives: int | None = None,
    streaming: bool = False,
    on_error: str = "raise",
    cache_dir: str | None = None,
):
    r"""
    Load training rows: JSON lines, or one JSON array, of objects as [`mine_hard_negatives`] makes them.

    Every object has `query` and `positive`, and perhaps `negatives`, `teacher_query`, `teacher_scores`, `id` and
    `lang`; [`RetrieverCollator`] says what they are. A document is a text, or an object with `text` and perhaps
    `title`. All rows have the same of these, and equally many negatives.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL, gzipped or not.
        num_negatives (`int`, *optional*):
            Keep the first so many negatives of each row, and their scores; all by default.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration and writes nothing.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs how many and the first of them.
        cache_dir (`str`, *optional*):
            Where the Arrow file goes.

    Returns:
        `datasets.Dataset` of `query` (`str`), `positive` (`{"title", "text"}`), `negatives` (a list of the same), and
        as far as the rows have them `id`, `lang`, `teacher_query` (`str`) and `teacher_scores` (of the positive and
        the negatives).

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a row is not such an object, or differs from the first in what it has.

    Example:
    ```python
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.data import load_training_rows

    >>> row = {"query": "Who?", "positive": {"title": "Bell", "text": "He did."}, "negatives": ["It rained."]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "rows.jsonl").write_text(json.dumps(row))
    ...     loaded = load_training_rows(Path(folder, "rows.jsonl"), cache_dir=folder)
    >>> loaded[0]["negatives"], loaded.column_names
    ([{'title': '', 'text': 'It rained.'}], ['query', 'positive', 'negatives'])

    ```
    """
    if num_negatives is not None and num_negatives < 1:
        raise ValueError(f"`num_negatives` is {num_negatives}. Pass 1 or more, or leave it out for all.")
    columns = _columns_of_first_row(resolve_file(path), os.fspath(path))
    return build_dataset(
        "training_rows",
        [path],
        TRAINING_ROW_FEATURES,
        _read_rows,
        options={"columns": columns, "num_negatives": num_negatives},
        on_error=on_error,
        streaming=streaming,
        cache_dir=cache_dir,
        batch_size=ROWS_PER_BATCH,
    ).select_columns([name for name in TRAINING_ROW_FEATURES if name not in OPTIONAL_COLUMNS or name in columns])


def _columns_of_first_row(path: str, name: str) -> list[str]:
    """Which optional columns the file has."""
    first = next((row for _, row in read_json_objects(path, name, RowErrors("skip"))), {})
    return [column for column in OPTIONAL_COLUMNS if first.get(column) is not None]


def _read_rows(files, names, errors: RowErrors, columns: list[str], num_negatives: int | None) -> Iterator[dict]:
    (path,), (name,) = files, names
    expected = num_negatives
    for number, row in read_json_objects(path, name, errors):
        try:
            record = _record(row, columns, num_negatives)
            found = len(record["negatives"])
            if found != (found if expected is None else expected):
                raise ValueError(
                    f"it has {found} negative(s) instead of {expected}, of which a batch needs equally many; "
                    "`num_negatives` keeps the first ones of each row"
                )
        except (ValueError, OverflowError) as error:
            errors.bad(name, number, str(error))
        else:
            expected = found
            yield record


def _record(row: dict, columns: list[str], num_negatives: int | None) -> dict:
    record = {}
    for column in ("query", *OPTIONAL_COLUMNS):
        value = row.get(column)
        if (value is not None) != (column == "query" or column in columns):
            had = f"no `{column}`" if value is None else f"`{column}`"
            raise ValueError(f"it has {had}" + (", unlike the first row" if column != "query" else ""))
        if column == "id" and type(value) is int:
            value = str(value)
        if column != "teacher_scores" and value is not None and not _is_text(value):
            raise ValueError(f"`{column}` is no text: {value!r:.60}")
        record[column] = value
    negatives = row.get("negatives") if row.get("negatives") is not None else []
    if not isinstance(negatives, list):
        raise ValueError("`negatives` is not a list of documents")
    record["positive"] = _document(row.get("positive"), "positive")
    record["negatives"] = [_document(negative, "negative") for negative in negatives]
    if record["teacher_scores"] is not None:
        record["teacher_scores"] = _scores(record["teacher_scores"], 1 + len(negatives))
    if num_negatives is not None:
        record["negatives"] = record["negatives"][:num_negatives]
        record["teacher_scores"] = record["teacher_scores"] and record["teacher_scores"][: 1 + num_negatives]
    return record


def _document(document, what: str) -> dict:
    if isinstance(document, str):
        document = {"text": document}
    if not isinstance(document, dict) or not _is_text(document.get("text")):
        raise ValueError(f"its {what} is neither a text nor an object with a `text`: {document!r:.60}")
    title = document.get("title")
    if not isinstance(title, str | None):
        raise ValueError(f"the title of its {what} is no text: {title!r:.60}")
    return {"title": title or "", "text": document["text"]}


def _scores(scores, number: int) -> list[float]:
    is_number = isinstance(scores, list) and all(type(score) in (int, float) for score in scores)
    if not is_number or len(scores) != number or not all(map(math.isfinite, scores)):
        raise ValueError(f"`teacher_scores` is no list of {number} numbers, one for each document: {scores!r:.60}")
    return [float(score) for score in scores]


def _is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


__all__ = ["load_training_rows"]
