"""Passages of a `Dataset` or a list: checked, and read by blocks or by rows from anywhere."""

import json

import numpy as np
import pyarrow as pa
from datasets import Dataset

from ..models.processing_text import fault_of


ROWS_PER_CHECK = 10_000


def check_passages(passages, digest=None):
    """
    The ids of passages, after a check of every row: a mistake in the last row is found before work starts. A `digest`
    of `hashlib` is updated with all ids, titles and texts.
    """
    if not isinstance(passages, Dataset | list | tuple):
        raise ValueError(
            f"`passages` must be a `datasets.Dataset` or a list of dictionaries, got {type(passages).__name__}."
        )
    if not len(passages):
        raise ValueError("`passages` is empty: give at least one.")
    ids = []
    for start in range(0, len(passages), ROWS_PER_CHECK):
        rows = read_rows(passages, start, start + ROWS_PER_CHECK)
        for position, (id, text) in enumerate(zip(rows["id"], rows["text"], strict=True), start):
            if not isinstance(id, str) or not id:
                raise ValueError(f"The passage in row {position} has the id {id!r}, expected a non-empty string.")
            if not isinstance(text, str):
                raise ValueError(f"The text of passage `{id}` in row {position} must be a string, got {text!r}.")
            if (fault := fault_of(text)) is not None:
                raise ValueError(f"The text of passage `{id}` in row {position} {fault}")
        ids += rows["id"]
        if digest is not None:
            digest.update(json.dumps([rows["id"], rows["text"], rows["title"]]).encode())
    duplicate = first_duplicate(ids)
    if duplicate is not None:
        raise ValueError(f"Two passages have the id `{duplicate}`: ids must be unique.")
    return ids


def read_rows(passages, start, stop):
    """Columns `id`, `text` and `title` (`None` if absent) of a range of rows, as lists."""
    names = ("id", "text", "title")
    if isinstance(passages, Dataset):
        present = [name for name in names if name in passages.column_names]
        _check_columns(present, "the dataset")
        with passages.formatted_as(columns=present):  # leaves other columns, such as vectors, undecoded
            rows = passages[start:stop]
    else:
        chunk = passages[start:stop]
        for position, row in enumerate(chunk, start):
            _check_columns(row, f"row {position}")
        rows = {name: [row.get(name) for row in chunk] for name in names}
    titles = [title or "" for title in rows.get("title", [])]
    return {"id": rows["id"], "text": rows["text"], "title": titles if any(titles) else None}


def _check_columns(present, where):
    missing = [name for name in ("id", "text") if name not in present]
    if missing:
        raise ValueError(f"Passages need `id` and `text`, but {where} lacks {missing}.")


def gather(dataset, rows, columns):
    """
    Some rows of a dataset as an Arrow table in the order of storage, undecoded, and the position in that table of each
    of `rows`. It reads the named columns alone, and takes all rows of a record batch at once; `dataset[rows]` slices
    its storage once per row, which takes tens of times longer for thousands of rows.
    """
    if dataset._indices is not None:
        rows = dataset._indices.column(0).take(pa.array(rows)).to_numpy().astype(np.int64)  # from unsigned
    order = np.argsort(rows, kind="stable")
    stored = rows[order]
    table = dataset.data.table.select(columns)
    batches = table.to_batches()
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    cuts = np.searchsorted(stored, starts)
    parts = [
        batch.take(pa.array(stored[cut:next_cut] - start))
        for batch, start, cut, next_cut in zip(batches, starts[:-1], cuts[:-1], cuts[1:], strict=True)
        if cut < next_cut
    ]
    positions = np.empty(len(rows), dtype=np.int64)
    positions[order] = np.arange(len(rows))
    return pa.Table.from_batches(parts, schema=table.schema), positions


def first_duplicate(ids):
    """The first id that appears a second time, or `None`."""
    hashes = np.fromiter(map(hash, ids), np.int64, len(ids))  # a tenth of the memory of a set
    hashes.sort()
    repeated = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not repeated:
        return None
    seen = set()
    return next((id for id in ids if hash(id) in repeated and (id in seen or seen.add(id))), None)


__all__ = ["check_passages", "first_duplicate", "gather", "read_rows"]
