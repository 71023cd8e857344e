"""Tables with named text columns: tab-separated with or without a header, JSON lines, a JSON array, parquet."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ..utils.checks import check_choice
from .building import build_dataset
from .ids import unique
from .reading import RowErrors, open_binary, peek, read_json_objects, read_lines, split_tsv


QUOTING = ("auto", "csv", "raw")
PARQUET_MAGIC = b"PAR1"


class Layout(NamedTuple):
    """
    The columns of a table. `kind` names the rows in messages and in the cache. `columns` maps each column to the names
    it may have in a file, preferred one first; a file without a header has the columns in this order. A file may lack
    the `optional` columns. `adapt` first changes each object of a JSON or parquet file.
    """

    kind: str
    features: datasets.Features
    columns: dict[str, tuple[str, ...]]
    optional: tuple[str, ...] = ()
    adapt: Callable[[dict], dict] | None = None

    def required(self) -> list[str]:
        """Columns that every row must have."""
        return [column for column in self.columns if column not in self.optional]

    def describe(self) -> str:
        """The columns and their other names, for messages."""
        words = []
        for column, aliases in self.columns.items():
            names = f" (or {', '.join(aliases[1:])})" if aliases[1:] else ""
            words.append(f"{'optionally ' if column in self.optional else ''}`{column}`{names}")
        return ", ".join(words)


def load_table(path, layout: Layout, *, quoting, on_error, streaming, cache_dir, read=None):
    """The dataset of one table, read by `read`, or by [`read_table`] by default."""
    # DPR quotes its passages and ColBERT does not; only a title in the header tells them apart
    check_choice("quoting", quoting, QUOTING if "title" in layout.columns else QUOTING[1:])
    return build_dataset(
        layout.kind,
        [path],
        layout.features,
        read or read_table,
        options={"layout": layout, "quoting": quoting},
        on_error=on_error,
        streaming=streaming,
        cache_dir=cache_dir,
    )


def read_table(files, names, errors: RowErrors, layout: Layout, quoting: str) -> Iterator[dict]:
    """The rows of one table as `{column: text}`. Values of a column `id` must be unique."""
    (path,), (name,) = files, names
    start = peek(path, name)
    if start.startswith(PARQUET_MAGIC):
        rows = _from_objects(_read_parquet(path, name, errors, layout), layout)
    elif start.lstrip()[:1] in (b"{", b"["):
        rows = _from_objects(read_json_objects(path, name, errors), layout)
    else:
        rows = _read_tsv(path, name, errors, layout, quoting)
    rows = _usable(rows, name, errors, layout)
    if "id" in layout.columns:
        yield from unique(rows, name, errors)
    else:
        yield from (record for _, record in rows)


def _read_tsv(path, name, errors: RowErrors, layout: Layout, quoting: str) -> Iterator[tuple[int, dict]]:
    positions = None
    for number, line in read_lines(path, name, errors):
        if positions is None:
            header = split_tsv(line, "csv")
            positions = _named_positions(header, f"`{name}`, line {number}", layout)
            if quoting == "auto":
                quoting = "csv" if positions and "title" in positions else "raw"
            if positions:
                width = len(header)
                continue
            width = len(split_tsv(line, quoting))
            positions = _usual_positions(width, f"`{name}`, line {number}", layout)
        fields = split_tsv(line, quoting)
        if len(fields) != width and quoting == "csv":
            fields = line.split("\t")  # one field starts with a quote, and another ends with one
        if len(fields) != width:
            errors.bad(name, number, f"expected {width} columns as in the first line, got {len(fields)}")
            continue
        yield number, {column: fields[positions[column]] if column in positions else "" for column in layout.columns}


def _named_positions(first_row: list[str], place: str, layout: Layout) -> dict[str, int]:
    """`{column: position}` according to a header; empty if the first row is not one."""
    names = [field.strip().lower() for field in first_row]
    named = {
        column: names.index(alias)
        for column, aliases in layout.columns.items()
        for alias in reversed(aliases)
        if alias in names
    }
    missing = [column for column in layout.required() if column not in named]
    if missing and named.get(next(iter(layout.columns))) == 0:
        raise ValueError(
            f"{place}: the header {', '.join(first_row)} names no {' and no '.join(missing)}. Expected "
            f"{layout.describe()}: rename the columns."
        )
    return {} if missing else named


def _usual_positions(width: int, place: str, layout: Layout) -> dict[str, int]:
    if not len(layout.required()) <= width <= len(layout.columns):
        raise ValueError(
            f"{place}: expected {layout.describe()}, separated by tabs, or a header that names them in any order; got "
            f"{width} column(s). Pass a tab-separated, JSON or parquet file of {layout.kind}."
        )
    return dict(zip(layout.columns, range(width), strict=False))


def _from_objects(rows, layout: Layout) -> Iterator[tuple[int, dict]]:
    for number, row in rows:
        row = layout.adapt(row) if layout.adapt else row
        values = {
            column: next((row[alias] for alias in aliases if row.get(alias) is not None), "")
            for column, aliases in layout.columns.items()
        }
        if type(values.get("id")) is int:
            values["id"] = str(values["id"])
        yield number, values


def _read_parquet(path, name: str, errors: RowErrors, layout: Layout) -> Iterator[tuple[int, dict]]:
    with open_binary(path) as stream:
        try:
            file = pq.ParquetFile(stream)
        except pa.ArrowInvalid as error:
            raise ValueError(f"`{name}` is not a complete parquet file ({error}). Download it again.") from error
        present = file.schema_arrow.names
        for column in layout.required():
            if not set(layout.columns[column]) & set(present):
                raise ValueError(
                    f"`{name}` has the columns {', '.join(present)}. Expected {layout.describe()}: rename the columns."
                )
        wanted = [column for column in present if any(column in aliases for aliases in layout.columns.values())]
        number = 0
        for batch in file.iter_batches(columns=wanted):
            for row in _rows(batch):
                number += 1
                if isinstance(row, UnicodeDecodeError):
                    errors.bad(name, number, f"byte 0x{row.object[row.start]:02x} is not UTF-8")
                else:
                    yield number, row


def _rows(batch: pa.RecordBatch) -> Iterator[dict | UnicodeDecodeError]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # one row at a time, to find which
        for row in range(batch.num_rows):
            try:
                yield from batch.slice(row, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield error


def _usable(rows, name: str, errors: RowErrors, layout: Layout) -> Iterator[tuple[int, dict]]:
    required = layout.required()
    for row in rows:
        number, values = row
        reason = None
        for column, value in values.items():
            if not isinstance(value, str):
                reason = f"the {column} is a {type(value).__name__}, not text"
                break
            if column in required and not value.strip():
                reason = f"it has no {column}"
                break
        if reason is None:
            yield row
        else:
            errors.bad(name, number, reason)


__all__ = ["Layout", "load_table", "read_table"]
