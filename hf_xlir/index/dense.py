"""Dense indexes: FAISS behind a `datasets.Dataset`."""

from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from datasets.search import BatchedSearchResults, FaissIndex, SearchResults

from .checks import check_dim, check_finite, check_ids_match, check_k, to_float_tensor
from .embeddings import DenseEmbeddings
from .faiss_import import import_faiss


ROWS_PER_BLOCK = 16_384
MOST_TRAINING_ROWS = 2**18


class Retrieved(NamedTuple):
    r"""
    What [`retrieve`] returns.

    Args:
        scores (`numpy.ndarray` of shape `(num_queries, k)`):
            Falling, higher is better.
        ids (`list[list[str]]`):
            The passages' ids, best first.
        rows (`list[list[dict]]`):
            The passages themselves; queries that found the same passage share its dictionary.
    """

    scores: np.ndarray
    ids: list[list[str]]
    rows: list[list[dict]]


class DenseIndex(FaissIndex):
    r"""
    A FAISS index whose scores are always higher-is-better. Made by [`add_dense_index`].

    Args:
        faiss_index (`faiss.Index`):
            The index.
        metric (`"inner_product"` or `"l2"`):
            What it was built with. With `"l2"` a score is the negated squared distance.
        column (`str`, *optional*):
            The dataset's column that holds the vectors, if one does; [`retrieve`] leaves it out of its rows.
    """

    def __init__(self, faiss_index, metric, column=None):
        super().__init__(custom_index=faiss_index)
        self.metric = metric
        self.column = column

    def search(self, query, k=10, params=None):
        r"""
        The best rows for one query; see [`~DenseIndex.search_batch`].

        Args:
            query (`numpy.ndarray` or `torch.Tensor` of shape `(embedding_dim,)` or `(1, embedding_dim)`):
                A vector.
            k (`int`, *optional*, defaults to 10):
                Number of rows.
            params (`faiss.SearchParameters`, *optional*):
                Of this search alone, such as `nprobe`.
        """
        query = to_float_tensor(query)
        if query.ndim not in (1, 2) or (query.ndim == 2 and len(query) != 1):
            raise ValueError(
                f"A query must have shape (embedding_dim,) or (1, embedding_dim), got {tuple(query.shape)}. For "
                "several queries use the batch search."
            )
        scores, rows = self.search_batch(query.reshape(1, -1), k, params)
        return SearchResults(scores[0], rows[0])

    def search_batch(self, queries, k=10, params=None):
        r"""
        The best rows for several queries.

        Args:
            queries (`numpy.ndarray` or `torch.Tensor` of shape `(num_queries, embedding_dim)`):
                Vectors of any floating type.
            k (`int`, *optional*, defaults to 10):
                Number of rows a query; all rows if there are fewer.
            params (`faiss.SearchParameters`, *optional*):
                Of this search alone, such as `nprobe`.

        Returns:
            `datasets.search.BatchedSearchResults`: Scores and rows, each of shape `(num_queries, k)`. An approximate
            index may find fewer: the rest are rows -1 with score `-inf`.

        Raises:
            ValueError: If the vectors do not fit the index or have a NaN or infinite value, or `k` is below 1.
        """
        queries = to_float_tensor(queries)
        if queries.ndim != 2:
            raise ValueError(f"Queries must have shape (num_queries, embedding_dim), got {tuple(queries.shape)}.")
        check_dim(queries, self.faiss_index.d)
        check_finite(queries)
        k = min(check_k(k), self.faiss_index.ntotal)
        scores, rows = self.faiss_index.search(np.ascontiguousarray(queries.numpy()), k, params=params)
        if self.metric == "l2":
            scores = -scores
        return BatchedSearchResults(np.where(rows < 0, -np.inf, scores), rows)


def add_dense_index(dataset, embeddings_or_column, index_name="dense", string_factory=None, metric="inner_product"):
    r"""
    Attach a FAISS index to a dataset, so that `dataset.get_nearest_examples(index_name, vector, k)` searches it.

    Operations that make another dataset of `dataset` drop the index silently (`map`, `add_column`, `cast`) or refuse
    (`select`, `filter`, `shuffle`, `sort`, `shard`, `save_to_disk`): attach it last.

    Args:
        dataset (`datasets.Dataset`):
            The passages.
        embeddings_or_column ([`DenseEmbeddings`], `numpy.ndarray`, `torch.Tensor` or `str`):
            One vector a row, of shape `(number of rows, embedding_dim)`, or the name of the column that holds them.
            Vectors outside the dataset make retrieval faster, since they are not fetched with the passages.
        index_name (`str`, *optional*, defaults to `"dense"`):
            What to call the index.
        string_factory (`str`, *optional*):
            A description for `faiss.index_factory`, such as `"IVF256,Flat"`; what needs training is trained on up to
            262,144 of the vectors, evenly spaced. Defaults to exact search, `"Flat"`.
        metric (`"inner_product"` or `"l2"`, *optional*, defaults to `"inner_product"`):
            How vectors compare. Scores are higher-is-better for both: with `"l2"`, negated squared distances.

    Returns:
        `datasets.Dataset`: `dataset` itself.

    Raises:
        ImportError: If FAISS is missing.
        ValueError: If vectors and rows do not match, a vector has a NaN or infinite value, or an argument is not one
            of those above.

    Example:
    ```python
    >>> import numpy as np
    >>> from datasets import Dataset
    >>> from hf_xlir.index import add_dense_index

    >>> passages = Dataset.from_dict({"id": ["a", "b"], "text": ["north", "east"]})
    >>> passages = add_dense_index(passages, np.eye(2, dtype="float32"))
    >>> scores, examples = passages.get_nearest_examples("dense", np.array([0.6, 0.8]), k=1)
    >>> examples["text"]
    ['east']

    ```
    """
    faiss = import_faiss()
    metrics = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
    if metric not in metrics:
        raise ValueError(f"`metric` must be one of {', '.join(metrics)}, got {metric!r}.")
    if not isinstance(dataset, Dataset):
        raise ValueError(f"An index attaches to a `datasets.Dataset`, got {type(dataset).__name__}.")
    if not len(dataset):
        raise ValueError("The dataset is empty: there is nothing to index.")
    column = embeddings_or_column if isinstance(embeddings_or_column, str) else None
    read = _column_reader(dataset, column) if column else _array_reader(dataset, embeddings_or_column)

    dim = read(np.arange(1)).shape[1]
    try:
        index = faiss.index_factory(dim, string_factory or "Flat", metrics[metric])
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot make an index {string_factory!r} of {dim} dimensions: {error}") from error
    if not index.is_trained:
        step = -(-len(dataset) // MOST_TRAINING_ROWS)
        index.train(read(np.arange(0, len(dataset), step)))
    for start in range(0, len(dataset), ROWS_PER_BLOCK):
        index.add(read(np.arange(start, min(start + ROWS_PER_BLOCK, len(dataset)))))
    dataset._indexes[index_name] = DenseIndex(index, metric, column)
    return dataset


def retrieve(dataset, index_name, query_embeddings, k=10, columns=None, **search_options):
    r"""
    The best passages for many queries, with one read of the dataset for all of them: `get_nearest_examples_batch`
    reads once a query, and decodes the vectors, too, if they are in a column.

    Args:
        dataset (`datasets.Dataset`):
            Passages with an index, by [`add_dense_index`] or [`LateInteractionIndex.attach`].
        index_name (`str`):
            The index.
        query_embeddings (`torch.Tensor` or `numpy.ndarray`):
            Of shape `(num_queries, embedding_dim)`, or `(num_queries, query_length, embedding_dim)` for late
            interaction.
        k (`int`, *optional*, defaults to 10):
            Number of passages a query; all of them if there are fewer.
        columns (`list[str]`, *optional*):
            Columns of the returned rows. All but that of the vectors by default.
        search_options:
            Further arguments of the index's batch search: `query_mask` and `allowed_ids` for late interaction.

    Returns:
        [`Retrieved`]: `scores`, `ids` and `rows`. An approximate index may find fewer than `k` passages: a query's
        `ids` and `rows` are then shorter, and the rest of its `scores` is `-inf`.

    Raises:
        ValueError: If there is no such index, the dataset lacks a column, or as the index's search raises.

    Example:
    ```python
    >>> scores, ids, rows = retrieve(passages, "dense", queries.embeddings, k=100)  # doctest: +SKIP
    >>> rows[0][0]["text"]  # doctest: +SKIP

    ```
    """
    if index_name not in dataset.list_indexes():
        raise ValueError(f"The dataset has no index {index_name!r}; it has {dataset.list_indexes()}.")
    index = dataset.get_index(index_name)
    if columns is None:
        vectors = index.column if isinstance(index, DenseIndex) else None
        columns = [name for name in dataset.column_names if name != vectors]
    unknown = [name for name in ("id", *columns) if name not in dataset.column_names]
    if unknown:
        raise ValueError(f"The dataset has no columns {unknown}; it has {dataset.column_names}.")

    queries = to_float_tensor(query_embeddings).numpy()
    scores, positions = index.search_batch(queries, k, **search_options)
    positions = np.asarray(positions)
    found, where = np.unique(positions[positions >= 0], return_inverse=True)
    with dataset.formatted_as(columns=list(dict.fromkeys(("id", *columns)))):
        table = dataset[found.tolist()]
    found_rows = [{name: table[name][i] for name in columns} for i in range(len(found))]
    found_ids = table["id"]
    splits = np.cumsum((positions >= 0).sum(axis=1))[:-1]
    of_query = [part.tolist() for part in np.split(where, splits)]
    return Retrieved(
        np.asarray(scores),
        [[found_ids[i] for i in part] for part in of_query],
        [[found_rows[i] for i in part] for part in of_query],
    )


def _array_reader(dataset, embeddings):
    """A function from row numbers to float32 vectors that are checked."""
    if isinstance(embeddings, DenseEmbeddings):
        check_ids_match(dataset, embeddings.ids)
        embeddings = embeddings.values
    values = embeddings.detach().cpu().float().numpy() if isinstance(embeddings, torch.Tensor) else embeddings
    if not isinstance(values, np.ndarray) or values.ndim != 2 or len(values) != len(dataset):
        shape = values.shape if isinstance(values, np.ndarray) else type(values).__name__
        raise ValueError(
            f"Embeddings must be `DenseEmbeddings`, an array or a tensor with one vector for each row of the dataset, "
            f"({len(dataset)}, embedding_dim), got {shape}."
        )
    return lambda rows: _checked(values[rows], rows)


def _column_reader(dataset, column):
    """The same for vectors in a column."""
    if column not in dataset.column_names:
        raise ValueError(f"The dataset has no column {column!r}; it has {dataset.column_names}.")

    def read(rows):
        with dataset.formatted_as("numpy", columns=[column], dtype=np.float32):
            values = dataset[rows.tolist()][column]
        if values.ndim != 2 or values.dtype != np.float32:
            raise ValueError(
                f"Column {column!r} must hold one vector a row, all of one length, got {dataset.features[column]}."
            )
        return _checked(values, rows)

    return read


def _checked(values, rows):
    values = np.ascontiguousarray(values, dtype=np.float32)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ValueError(f"The vector of row {rows[finite.argmin()]} has a NaN or infinite value.")
    return values


__all__ = ["DenseIndex", "Retrieved", "add_dense_index", "retrieve"]
