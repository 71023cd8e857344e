"""Training rows for retrievers: rows as mining writes them, and triples as texts or as ids."""

import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import datasets

from ..utils.checks import check_integer
from .building import blocks, build_dataset, resolve_file
from .collection import load_passages, load_queries
from .features import RANKED_EXAMPLE_FEATURES, TRAINING_ROW_FEATURES, TRIPLE_FEATURES
from .ids import RecordsById
from .reading import RowErrors, converted, peek, read_json_lists, read_json_objects, read_lines
from .tables import Layout, load_table, read_table


OPTIONAL_COLUMNS = ("id", "lang", "teacher_query", "teacher_scores")
ROWS_PER_BATCH = 1000  # of up to a hundred passages each
EXAMPLES_PER_LOOKUP = 1000
TRIPLES = Layout(
    "triples", TRIPLE_FEATURES, {"query": ("query",), "positive": ("positive",), "negative": ("negative",)}
)


def load_training_rows(
    path: str | os.PathLike,
    num_negatives: int | None = None,
    streaming: bool = False,
    on_error: str = "raise",
    cache_dir: str | None = None,
):
    r"""
    Load training rows: JSON lines, or one JSON array, of objects as [`mine_hard_negatives`] writes them.

    Every object has `query` and `positive`, and optionally `negatives`, `teacher_query`, `teacher_scores`, `id` and
    `lang`; see [`RetrieverCollator`]. A document is a text, or an object with `text` and optionally `title`. All rows
    have the same columns and the same number of negatives.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL, gzipped or not.
        num_negatives (`int`, *optional*):
            Negatives per row to keep, with their scores: the first ones. All by default.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration and writes nothing.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` skips bad rows and logs their number and the first of them.
        cache_dir (`str`, *optional*):
            Folder for the Arrow file; by default the cache of `datasets`.

    Returns:
        `datasets.Dataset` of `query` (`str`), `positive` (`{"title", "text"}`), `negatives` (a list of the same), and,
        if the rows have them, `id`, `lang`, `teacher_query` (`str`) and `teacher_scores` (of the positive, then of the
        negatives).

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a row is not such an object, or has other columns than the first.

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
    if num_negatives is not None:
        check_integer("num_negatives", num_negatives)
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
    """The optional columns of the file."""
    first = next((row for _, row in read_json_objects(path, name, RowErrors("skip"))), {})
    return [column for column in OPTIONAL_COLUMNS if first.get(column) is not None]


def _read_rows(files, names, errors: RowErrors, columns: list[str], num_negatives: int | None) -> Iterator[dict]:
    (path,), (name,) = files, names
    expected = num_negatives

    def convert(row: dict, position: int) -> dict:
        nonlocal expected
        record = _record(row, columns, num_negatives)
        found = len(record["negatives"])
        if expected not in (None, found):
            raise ValueError(
                f"it has {found} negative(s) instead of {expected}, but all rows of a batch need the same number; "
                "`num_negatives` keeps the first ones"
            )
        expected = found
        return record

    rows = converted(read_json_objects(path, name, errors), convert, name, errors)
    return (record for _, record in rows)


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
            raise ValueError(f"`{column}` is not text: {value!r:.60}")
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
        raise ValueError(f"the title of its {what} is not text: {title!r:.60}")
    return {"title": title or "", "text": document["text"]}


def _scores(scores, number: int) -> list[float]:
    is_number = isinstance(scores, list) and all(type(score) in (int, float) for score in scores)
    if not is_number or len(scores) != number or not all(map(math.isfinite, scores)):
        raise ValueError(f"`teacher_scores` must be a list of {number} numbers, one per document, got {scores!r:.60}")
    return [float(score) for score in scores]


def _is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def load_triples(
    path: str | os.PathLike,
    queries: str | os.PathLike | datasets.Dataset | None = None,
    passages: str | os.PathLike | datasets.Dataset | None = None,
    num_negatives: int | None = None,
    streaming: bool = False,
    on_error: str = "raise",
    quoting: str = "raw",
    cache_dir: str | None = None,
):
    r"""
    Load training triples, gzipped or not, as texts or as ids of queries and passages.

    - Texts: lines of query, positive and negative with tabs between, with or without a header of these names. JSON
      objects and parquet with these columns are recognised by content.
    - Ids, if `queries` and `passages` are given: lines of the ids of a query, a positive and one or more negatives,
      with tabs between (MS MARCO's `qidpidtriples`); or ColBERT's n-way JSON lines, either `[query, positive,
      negative, ...]` or, with a teacher's scores, `[query, [positive, score], [negative, score], ...]`.

    Ids are looked up while the file is read, and memory does not grow with the file. The dataset repeats a text as
    often as the file repeats its id; if that needs too much disk, use fewer negatives or `streaming`.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL.
        queries (`str`, `os.PathLike` or `datasets.Dataset`, *optional*):
            A file for [`load_queries`], or a dataset with columns `id` and `question`.
        passages (`str`, `os.PathLike` or `datasets.Dataset`, *optional*):
            A file for [`load_passages`], or a dataset with columns `id`, `text` and optionally `title`.
        num_negatives (`int`, *optional*):
            Negatives per row to keep from a file of ids: the first ones. All by default.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration and writes nothing.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` skips bad rows and logs their number and the first of them.
        quoting (`str`, *optional*, defaults to `"raw"`):
            The meaning of quotes in lines of texts. `"raw"`: quotes are text, as ColBERT reads such files. `"csv"`: a
            field that is quoted as a whole is unquoted, which gives the original text of DR.DECR's files.
        cache_dir (`str`, *optional*):
            Folder for the Arrow file; by default the cache of `datasets`.

    Returns:
        `datasets.Dataset`. From texts: `query`, `positive` and `negative` (`str`). From ids: `query` (`str`),
        `positive` (a passage `{"id", "title", "text"}`), `negatives` (a list of these) and `teacher_scores` (of the
        positive and the negatives, or `None`). [`RetrieverCollator`] takes both.

    Raises:
        FileNotFoundError: If a file does not exist.
        TypeError: If `queries` or `passages` is neither a path nor a dataset.
        ValueError: If the file has ids and `queries` or `passages` is missing; if a column is missing, or two records
            have the same id; if a row is blank or not UTF-8, has an empty text, another number of columns than the
            first, an unknown id, a passage twice, a score that is not a number, or fewer than `num_negatives`
            negatives.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from datasets import Dataset
    >>> from hf_xlir.data import load_triples

    >>> queries = Dataset.from_dict({"id": ["7"], "question": ["Who invented the telephone?"]})
    >>> passages = Dataset.from_dict({"id": ["1", "2"], "text": ["Bell did.", "It rained."]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "examples.jsonl").write_text("[7, [1, 12.5], [2, -3.0]]")
    ...     row = load_triples(Path(folder, "examples.jsonl"), queries, passages, cache_dir=folder)[0]
    >>> row["query"], row["negatives"], row["teacher_scores"]
    ('Who invented the telephone?', [{'id': '2', 'title': '', 'text': 'It rained.'}], [12.5, -3.0])

    ```
    """
    options = {"on_error": on_error, "streaming": streaming, "cache_dir": cache_dir}
    if queries is None and passages is None:
        if num_negatives is not None:
            raise ValueError(
                "`num_negatives` applies to files of ids. Pass `queries` and `passages`, or leave it out."
            )
        return load_table(path, TRIPLES, read=_read_triples, quoting=quoting, **options)
    if queries is None or passages is None:
        missing = "queries" if queries is None else "passages"
        raise ValueError(f"`{missing}` is missing: ids are looked up in both `queries` and `passages`. Pass both.")
    if num_negatives is not None:
        check_integer("num_negatives", num_negatives)
    others = {
        "queries": _dataset("queries", queries, load_queries, ("id", "question"), on_error, cache_dir),
        "passages": _dataset("passages", passages, load_passages, ("id", "text"), on_error, cache_dir),
    }
    return build_dataset(
        "id_triples",
        [path],
        RANKED_EXAMPLE_FEATURES,
        _read_id_triples,
        options={"num_negatives": num_negatives},
        others=others,
        batch_size=ROWS_PER_BATCH,
        **options,
    )


def _read_triples(files, names, errors: RowErrors, layout: Layout, quoting: str) -> Iterator[dict]:
    start = peek(files[0], names[0]).lstrip()
    first = start.split(b"\n", 1)[0].split(b"\t")
    is_ids = len(first) > 2 and all(field.strip().removeprefix(b"-").isdigit() for field in first)
    if is_ids or (start.startswith(b"[") and not start[1:].lstrip().startswith(b"{")):
        raise ValueError(
            f"`{names[0]}` has ids instead of texts in its first line. Pass `queries` and `passages`, which have the "
            "texts."
        )
    yield from read_table(files, names, errors, layout, quoting)


def _dataset(argument: str, given, load, columns: tuple[str, ...], on_error: str, cache_dir) -> datasets.Dataset:
    if isinstance(given, str | os.PathLike):
        return load(given, on_error=on_error, cache_dir=cache_dir)
    if not isinstance(given, datasets.Dataset):
        raise TypeError(
            f"`{argument}` is a {type(given).__name__}. Pass a path, or a `datasets.Dataset` with the columns "
            f"{' and '.join(columns)}."
        )
    missing = [column for column in columns if column not in given.column_names]
    if missing:
        raise ValueError(
            f"`{argument}` has the columns {', '.join(given.column_names)}, and no {' and no '.join(missing)}. Rename "
            "them with `rename_column`."
        )
    if given.features["id"].dtype != "string":
        raise ValueError(
            f"The column `id` of `{argument}` is of type {given.features['id'].dtype}. Cast it to string with "
            "`cast_column`."
        )
    return given


class _IdExample(NamedTuple):
    line: int
    query: str
    passages: list[str]  # positive first
    scores: list[float] | None  # as many


def _read_id_triples(
    files, names, errors: RowErrors, num_negatives: int | None, queries: datasets.Dataset, passages: datasets.Dataset
) -> Iterator[dict]:
    (path,), (name,) = files, names
    find_queries = RecordsById(queries.select_columns(["id", "question"]))
    columns = [column for column in ("id", "title", "text") if column in passages.column_names]
    find_passages = RecordsById(passages.select_columns(columns))
    for block in blocks(_read_ids(path, name, errors, num_negatives), EXAMPLES_PER_LOOKUP):
        texts = find_queries.find(example.query for example in block)
        records = find_passages.find(passage_id for example in block for passage_id in example.passages)
        for example in block:
            unknown = [passage_id for passage_id in example.passages if passage_id not in records]
            if example.query not in texts:
                errors.bad(name, example.line, f"no query has the id `{example.query}`")
            elif unknown:
                errors.bad(name, example.line, f"no passage has the id `{unknown[0]}`")
            else:
                found = [{"title": "", **records[passage_id]} for passage_id in example.passages]
                yield {
                    "query": texts[example.query]["question"],
                    "positive": found[0],
                    "negatives": found[1:],
                    "teacher_scores": example.scores,
                }


def _read_ids(path, name: str, errors: RowErrors, num_negatives: int | None) -> Iterator[_IdExample]:
    """Examples with `num_negatives` negatives each, or with as many as the first example has."""
    expected = None if num_negatives is None else num_negatives + 1
    has_scores = None
    is_json = peek(path, name).lstrip()[:1] in (b"[", b"{")

    def convert(query_and_passages: list, position: int) -> tuple:
        nonlocal expected, has_scores
        query, *entries = query_and_passages or [None]
        passage_ids, scores = _split_scores(entries)
        if num_negatives is not None:
            passage_ids, scores = passage_ids[:expected], scores and scores[:expected]
        query = _checked_id(query)
        if len(passage_ids) < 2:
            raise ValueError("it has no negative")
        if len(set(passage_ids)) < len(passage_ids):
            raise ValueError("it has a passage twice")
        if expected not in (None, len(passage_ids)):
            raise ValueError(f"expected {expected - 1} negative(s), got {len(passage_ids) - 1}")
        if has_scores not in (None, scores is not None):
            raise ValueError(f"it has {'no ' * has_scores}scores, unlike the first row")
        expected, has_scores = len(passage_ids), scores is not None
        return query, passage_ids, scores

    rows = read_json_lists(path, name, errors) if is_json else _read_id_lines(path, name, errors)
    for number, example in converted(rows, convert, name, errors):
        yield _IdExample(number, *example)


def _read_id_lines(path, name, errors: RowErrors) -> Iterator[tuple[int, list[str]]]:
    for number, line in read_lines(path, name, errors):
        yield number, [field.strip() for field in line.split("\t")]


def _split_scores(entries: list) -> tuple[list[str], list[float] | None]:
    if not any(isinstance(entry, list) for entry in entries):
        return [_checked_id(entry) for entry in entries], None
    passage_ids, scores = [], []
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2:
            raise ValueError(f"expected a passage's id and its score, got {entry!r:.60}")
        passage_id, score = entry
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise ValueError(f"the score {score!r:.60} is not a number")
        passage_ids.append(_checked_id(passage_id))
        scores.append(float(score))
    return passage_ids, scores


def _checked_id(value) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected an id, got {value!r:.60}")
    return value


__all__ = ["load_training_rows", "load_triples"]
