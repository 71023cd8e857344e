"""`retrieve`: the passages of many queries, with one read of the dataset."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from datasets.formatting import get_formatter

from ..data.passages import gather
from .checks import to_float_tensor


ROWS_PER_FILTER_BLOCK = 10_000


class RetrievedRows(Sequence):
    r"""
    A `list[list[dict]]`: the passages of each query, read from the dataset in one go when one is first looked at. If
    only ids and scores are needed, no text leaves the disk.

    It compares, iterates, slices and pickles as that list. Queries that found the same passage share its dictionary.

    Args:
        dataset (`datasets.Dataset`):
            The passages.
        columns (`list[str]`):
            Columns of the dictionaries.
        found (`numpy.ndarray` of shape `(n,)`):
            Rows of the dataset, each once.
        positions (`list[numpy.ndarray]`):
            For each query, positions in `found`.
    """

    def __init__(self, dataset, columns, found, positions):
        self._dataset, self._columns, self._found, self._positions = dataset, columns, found, positions

    def __len__(self):
        return len(self._positions)

    def __getitem__(self, query):
        return self._lists[query]

    def __eq__(self, other):
        return self._lists == (other._lists if isinstance(other, RetrievedRows) else other)

    __hash__ = None

    def __repr__(self):
        return repr(self._lists)

    def __reduce__(self):
        return list, (self._lists,)

    @cached_property
    def _lists(self):
        names = self._columns
        if names:
            table, positions = gather(self._dataset, self._found, names)
            values = get_formatter("python", features=self._dataset.features).format_batch(table)
            rows = [dict(zip(names, row, strict=True)) for row in zip(*(values[name] for name in names), strict=True)]
            rows = [rows[i] for i in positions.tolist()]
        else:
            rows = [{} for _ in self._found]
        return [[rows[i] for i in found.tolist()] for found in self._positions]


def retrieve(dataset, index_name, queries, k=10, columns=None, allowed_ids=None, filter=None, **search_options):
    r"""
    The best passages for many queries. The dataset is read once for all of them, and only when the rows are first
    looked at; `get_nearest_examples_batch` reads it once per query, and decodes a column of vectors, too.

    Args:
        dataset (`datasets.Dataset`):
            Passages with an index, from [`add_dense_index`] or the `attach` method of an index.
        index_name (`str`):
            Name of the index in the dataset.
        queries (`torch.Tensor`, `numpy.ndarray` or `list[str]`):
            Vectors of shape `(num_queries, embedding_dim)`, or `(num_queries, query_length, embedding_dim)` for late
            interaction; texts for BM25.
        k (`int`, *optional*, defaults to 10):
            Number of passages per query; all allowed passages if there are fewer.
        columns (`list[str]`, *optional*):
            Columns of the returned rows. By default all but the index's column of vectors.
        allowed_ids (`Iterable[str]`, *optional*):
            Rank only these passages.
        filter (`Callable[[dict], bool]`, *optional*):
            Rank only passages for which it is true, such as `lambda row: row["lang"] == "en"`. It gets every row of
            the dataset without its vectors. If many calls have the same filter, compute `allowed_ids` once instead.
        search_options:
            Further arguments of the index's `search_batch`, such as `query_mask` for late interaction.

    Returns:
        `tuple` of three: `scores` (`numpy.ndarray` of shape `(num_queries, k)`, in falling order), `ids`
        (`list[list[str]]`, best first) and `rows` (a [`RetrievedRows`], used like a `list[list[dict]]`:
        `rows[0][0]["text"]` is the text of the first query's best passage).

    Raises:
        ValueError: If there is no such index, the dataset lacks a column, or the index's search raises it.

    Example:
    ```python
    >>> import numpy as np
    >>> from datasets import Dataset
    >>> from hf_xlir.index import add_dense_index, retrieve

    >>> passages = Dataset.from_dict({"id": ["a", "b"], "text": ["north", "east"], "year": [1999, 2001]})
    >>> passages = add_dense_index(passages, np.eye(2, dtype="float32"))
    >>> scores, ids, rows = retrieve(passages, "dense", np.array([[0.6, 0.8], [1, 0]]), k=1)
    >>> ids, rows[0][0]["text"]
    ([['b'], ['a']], 'east')
    >>> retrieve(passages, "dense", np.array([[0.6, 0.8]]), k=1, filter=lambda row: row["year"] < 2000)[1]
    [['a']]

    ```
    """
    if index_name not in dataset.list_indexes():
        raise ValueError(f"The dataset has no index {index_name!r}; it has {dataset.list_indexes()}.")
    index = dataset.get_index(index_name)
    without_vectors = [name for name in dataset.column_names if name != getattr(index, "column", None)]
    columns = without_vectors if columns is None else list(columns)
    unknown = [name for name in ("id", *columns) if name not in dataset.column_names]
    if unknown:
        raise ValueError(f"The dataset has no columns {unknown}; it has {dataset.column_names}.")

    if getattr(index, "queries", "vectors") != "text":
        queries = to_float_tensor(queries).numpy()
    if filter is not None:
        allowed_ids = _ids_that_pass(dataset, filter, without_vectors, allowed_ids)
    if allowed_ids is not None:
        search_options["allowed_ids"] = allowed_ids
    scores, rows = index.search_batch(queries, k, **search_options)
    rows = np.asarray(rows)
    found, inverse = _distinct(rows[rows >= 0], len(dataset))
    of_query = np.split(inverse, np.cumsum((rows >= 0).sum(axis=1))[:-1])
    table, positions = gather(dataset, found, ["id"])
    ids = table.column("id").to_numpy()[positions]
    found_rows = RetrievedRows(dataset, columns, found, of_query)
    return np.asarray(scores), [ids[part].tolist() for part in of_query], found_rows


def _distinct(rows, num_rows):
    """`numpy.unique` with the inverse, without sorting if many of all rows are there."""
    if len(rows) * 16 < num_rows:
        return np.unique(rows, return_inverse=True)
    present = np.zeros(num_rows, dtype=bool)
    present[rows] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[rows]


def _ids_that_pass(dataset, passes, columns, allowed_ids):
    """The ids of the rows for which a function is true, of the allowed ones if `allowed_ids` is given."""
    allowed_ids = None if allowed_ids is None else set(allowed_ids)
    ids = []
    with dataset.formatted_as(columns=columns):
        for start in range(0, len(dataset), ROWS_PER_FILTER_BLOCK):
            block = dataset[start : start + ROWS_PER_FILTER_BLOCK]
            for values in zip(*(block[name] for name in columns), strict=True):
                row = dict(zip(columns, values, strict=True))
                if (allowed_ids is None or row["id"] in allowed_ids) and passes(row):
                    ids.append(row["id"])
    return ids


__all__ = ["RetrievedRows", "retrieve"]
