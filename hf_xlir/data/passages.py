"""Passage collections: DPR's and ColBERT's TSV files, JSON lines, parquet."""

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .building import blocks, build_dataset, check_choice
from .features import PASSAGE_FEATURES
from .reading import RowErrors, open_binary, peek, read_json_objects, read_lines, split_tsv


ID_NAMES = ("id", "_id", "pid", "docid")
TEXT_NAMES = ("text", "passage", "contents")
QUOTING = ("auto", "csv", "raw")
PARQUET_MAGIC = b"PAR1"


def load_passages(
    path: str | os.PathLike,
    streaming: bool = False,
    on_error: str = "raise",
    quoting: str = "auto",
    cache_dir: str | None = None,
):
    r"""
    Load a collection of passages. The format is recognised by content, gzipped or not:

    - TSV with a header that names an id (`id`, `pid` ...), a text (`text`, `passage` ...) and perhaps a `title`, in
      any order: DPR's `psgs_w100.tsv.gz`, ColBERT's collections.
    - TSV without a header: id, text and perhaps title (ColBERT).
    - JSON lines, or one JSON array, with `id` (or `_id`, `docid`) and `text` and perhaps `title`; or with pyserini's
      `contents`, a title and a text with a tab between, or else only a text.
    - Parquet with these columns.

    Names such as "NA" and "null" are names. Rows are read one block at a time and written to an Arrow file, which is
    memory-mapped: the 21 million passages of `psgs_w100` take minutes once, and bounded memory always.

    Args:
        path (`str` or `os.PathLike`):
            Path or URL.
        streaming (`bool`, *optional*, defaults to `False`):
            Return an `IterableDataset` that reads during iteration and writes nothing.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows and logs their number; of passages with one id the first stays.
        quoting (`str`, *optional*, defaults to `"auto"`):
            What quotes mean in a TSV file. `"csv"`: a field that is quoted as a whole is unquoted. `"raw"`: quotes are
            text. `"auto"`: `"csv"` if the header has a title, as in DPR's file, and `"raw"` otherwise, as in
            ColBERT's. A record is one line in each of them, so that a stray quote never swallows rows.
        cache_dir (`str`, *optional*):
            Where the Arrow file goes.

    Returns:
        `datasets.Dataset` of `id`, `title` and `text` (`str`), in the order of the file; `title` is empty where there
        is none.

    Raises:
        FileNotFoundError: If the file does not exist.
        ConnectionError: If a URL cannot be downloaded.
        ValueError: If a row is blank or not UTF-8, has another number of columns than the first, has no id or no text,
            or has the id of a row before; the message names file, line and reason.

    Example:
    ```python
    passages = load_passages("psgs_w100.tsv.gz")
    passages[0]  # {"id": "1", "title": "Aaron", "text": "..."}
    ```
    """
    check_choice("quoting", quoting, QUOTING)
    return build_dataset(
        "passages",
        [path],
        PASSAGE_FEATURES,
        _read_passages,
        options={"quoting": quoting},
        on_error=on_error,
        streaming=streaming,
        cache_dir=cache_dir,
    )


def _read_passages(files, names, errors: RowErrors, quoting: str) -> Iterator[dict]:
    (path,), (name,) = files, names
    start = peek(path)
    if start.startswith(PARQUET_MAGIC):
        rows = _read_parquet(path, name)
    elif start.lstrip()[:1] in (b"{", b"["):
        rows = ((number, _from_json(row)) for number, row in read_json_objects(path, name, errors))
    else:
        rows = _read_tsv(path, name, errors, quoting)
    yield from _checked(rows, name, errors)


def _read_tsv(path, name, errors: RowErrors, quoting: str) -> Iterator[tuple[int, dict]]:
    lines = read_lines(path, name, errors)
    columns, width = None, None
    for number, line in lines:
        if columns is None:
            fields = split_tsv(line, "csv")
            columns, width, has_header = _columns(fields, name)
            if quoting == "auto":
                quoting = "csv" if has_header and "title" in columns else "raw"
            if has_header:
                continue
        fields = split_tsv(line, quoting)
        if len(fields) != width and quoting == "csv":
            fields = line.split("\t")  # a field that starts with a quote, and another that ends with one
        if len(fields) != width:
            errors.bad(name, number, f"expected {width} columns as in the first line, got {len(fields)}")
            continue
        title = fields[columns["title"]] if "title" in columns else ""
        yield number, {"id": fields[columns["id"]], "title": title, "text": fields[columns["text"]]}


def _columns(first_row: list[str], name: str) -> tuple[dict[str, int], int, bool]:
    """Where id, text and title are, how many columns there are, and whether the first row says so."""
    header = [field.strip().lower() for field in first_row]
    columns = {
        column: header.index(alias)
        for column, aliases in (("id", ID_NAMES), ("text", TEXT_NAMES), ("title", ("title",)))
        for alias in reversed(aliases)
        if alias in header
    }
    if "id" in columns and "text" in columns:
        return columns, len(header), True
    if len(header) not in (2, 3):
        raise ValueError(
            f"`{name}`, line 1: expected id, text and perhaps title, separated by tabs, or a header that names them; "
            f"got {len(header)} column(s). Pass a TSV, JSON lines or parquet file of passages."
        )
    return {"id": 0, "text": 1, "title": 2} if len(header) == 3 else {"id": 0, "text": 1}, len(header), False


def _from_json(row: dict) -> dict:
    passage = {
        column: next((row[alias] for alias in aliases if row.get(alias) is not None), None)
        for column, aliases in (("id", ID_NAMES), ("title", ("title",)), ("text", ("text", "passage")))
    }
    if passage["text"] is None and isinstance(row.get("contents"), str):
        title, tab, text = row["contents"].partition("\t")
        passage["text"] = text if tab else title
        if tab and passage["title"] is None:
            passage["title"] = title
    if isinstance(passage["id"], int) and not isinstance(passage["id"], bool):
        passage["id"] = str(passage["id"])
    return {column: "" if value is None else value for column, value in passage.items()}


def _read_parquet(path, name) -> Iterator[tuple[int, dict]]:
    with open_binary(path) as stream:
        try:
            file = pq.ParquetFile(stream)
        except pa.ArrowInvalid as error:
            raise ValueError(f"`{name}` is not a complete parquet file ({error}). Download it again.") from error
        present = file.schema_arrow.names
        if not set(ID_NAMES) & set(present) or not set(TEXT_NAMES) & set(present):
            raise ValueError(
                f"`{name}` has the columns {', '.join(present)}. Expected an id (one of {', '.join(ID_NAMES)}), a "
                f"text (one of {', '.join(TEXT_NAMES)}) and perhaps a title: rename the columns."
            )
        wanted = [column for column in present if column in (*ID_NAMES, *TEXT_NAMES, "title")]
        number = 0
        for batch in file.iter_batches(columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, _from_json(row)


def _checked(rows, name: str, errors: RowErrors) -> Iterator[dict]:
    seen = _SeenIds()
    for block in blocks(_usable(rows, name, errors), 10_000):
        is_new = seen.add([passage["id"] for _, passage in block])
        for (number, passage), new in zip(block, is_new, strict=True):
            if new:
                yield passage
            else:
                errors.bad(name, number, f"the id `{passage['id']}` has occurred before")


def _usable(rows, name: str, errors: RowErrors) -> Iterator[tuple[int, dict]]:
    for row in rows:
        number, passage = row
        other = [f"the {column} is a {type(v).__name__}" for column, v in passage.items() if not isinstance(v, str)]
        if other:
            errors.bad(name, number, f"{other[0]} and not text")
        elif not passage["id"].strip():
            errors.bad(name, number, "it has no id")
        elif not passage["text"].strip():
            errors.bad(name, number, "it has no text")
        else:
            yield row


class _SeenIds:
    """The ids so far in eight bytes each: sorted arrays of hashes, merged so that there are few of them."""

    def __init__(self):
        self.arrays: list[np.ndarray] = []

    def add(self, ids: list[str]) -> np.ndarray:
        """Which of `ids` are new, as a boolean array; two of 21 million share a hash once in 100,000 collections."""
        hashes, first, inverse = np.unique(
            np.fromiter(map(hash, ids), np.int64, len(ids)), return_index=True, return_inverse=True
        )
        is_new = np.ones(len(hashes), bool)
        for array in self.arrays:
            is_new &= array[np.minimum(np.searchsorted(array, hashes), len(array) - 1)] != hashes
        self.arrays.append(hashes[is_new])
        while len(self.arrays) > 1 and len(self.arrays[-2]) <= 2 * len(self.arrays[-1]):
            self.arrays[-2:] = [np.sort(np.concatenate(self.arrays[-2:]))]
        if not len(self.arrays[-1]):
            self.arrays.pop()
        is_first = np.zeros(len(ids), bool)
        is_first[first] = True
        return is_new[inverse] & is_first


__all__ = ["load_passages"]
