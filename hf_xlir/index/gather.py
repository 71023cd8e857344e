"""Rows of a `datasets.Dataset` from anywhere in it, with one pass over its storage."""

import numpy as np
import pyarrow as pa


def gather(dataset, rows, columns):
    r"""
    Rows of a dataset as one Arrow table.

    `dataset[list of rows]` slices its storage once a row; this takes all rows of a record batch together, which is
    tens of times faster for thousands of rows, and reads only the columns that are asked for.

    Args:
        dataset (`datasets.Dataset`):
            Where rows come from, with or without an indices mapping.
        rows (`numpy.ndarray` of shape `(n,)`):
            Row numbers, none of them out of range.
        columns (`list[str]`):
            At least one.

    Returns:
        `tuple[pyarrow.Table, numpy.ndarray]`: The rows in the order of storage, undecoded, and the position in that
        table of each of `rows`, int64 of shape `(n,)`.
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


__all__ = ["gather"]
