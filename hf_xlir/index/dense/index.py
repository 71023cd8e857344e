"""The dense index: the face that a `datasets.Dataset` sees."""

from functools import cached_property

import fsspec
import numpy as np
from datasets.search import BatchedSearchResults, FaissIndex, SearchResults

from ...utils.storage import FolderWriter, check_replaceable, read_folder
from ..checks import check_dim, check_finite, check_ids_match, check_k, rows_of_ids, to_float_tensor
from ..embeddings import read_ids, write_ids
from .faiss_building import faiss_metric, to_cpu, to_device
from .faiss_import import import_faiss
from .faiss_search import best_rows


INDEX_FORMAT = "hf_xlir.dense_index"
_A_FOLDER = object()


class DenseIndex(FaissIndex):
    r"""
    A FAISS index whose scores are always higher-is-better, and that always returns `k` rows if it has them. Made by
    [`add_dense_index`] or [`~DenseIndex.load`].

    Args:
        faiss_index (`faiss.Index`):
            The index; not to be changed afterwards.
        metric (`"inner_product"` or `"l2"`):
            What it was built with. With `"l2"` a score is the negated squared distance.
        ids (`list[str]`, *optional*):
            The passages' ids, in the order of rows.
        column (`str`, *optional*):
            The dataset's column that holds the vectors, if one does; [`retrieve`] leaves it out of its rows.
    """

    kind, queries, format, search_options = "dense", "vectors", INDEX_FORMAT, ("params",)

    def __init__(self, faiss_index, metric, ids=None, column=None):
        super().__init__(custom_index=faiss_index)
        self.metric = metric
        self.ids = ids
        self.column = column

    def __len__(self):
        return self.faiss_index.ntotal

    def __deepcopy__(self, memo):
        return self  # it never changes: `dataset.with_format` and its like need no second one in memory

    @property
    def embedding_dim(self):
        """Number of dimensions of a vector."""
        return self.faiss_index.d

    def search(self, query, k=10, params=None, allowed_ids=None, allowed_rows=None):
        r"""
        The best rows for one query; see [`~DenseIndex.search_batch`].

        Args:
            query (`numpy.ndarray` or `torch.Tensor` of shape `(embedding_dim,)` or `(1, embedding_dim)`):
                A vector.
            k (`int`, *optional*, defaults to 10):
                Number of rows.
            params (`faiss.SearchParameters`, *optional*):
                Of this search alone.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages.
            allowed_rows (`numpy.ndarray` or `list[int]`, *optional*):
                Rank only these rows.
        """
        query = to_float_tensor(query)
        if query.ndim not in (1, 2) or (query.ndim == 2 and len(query) != 1):
            raise ValueError(
                f"A query must have shape (embedding_dim,) or (1, embedding_dim), got {tuple(query.shape)}. For "
                "several queries use the batch search."
            )
        scores, rows = self.search_batch(query.reshape(1, -1), k, params, allowed_ids, allowed_rows)
        return SearchResults(scores[0], rows[0])

    def search_batch(self, queries, k=10, params=None, allowed_ids=None, allowed_rows=None):
        r"""
        The best rows for several queries.

        Args:
            queries (`numpy.ndarray` or `torch.Tensor` of shape `(num_queries, embedding_dim)`):
                Vectors of any floating type, used as they are: normalise them if the passages' were.
            k (`int`, *optional*, defaults to 10):
                Number of rows a query; all rows that are allowed if there are fewer.
            params (`faiss.SearchParameters`, *optional*):
                Of this search alone, such as `faiss.SearchParametersIVF(nprobe=64)`; without a selector.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages. The fewer, the faster; up to 16,384 are all scored, whatever the index.
            allowed_rows (`numpy.ndarray` or `list[int]`, *optional*):
                The same by row numbers, or by a boolean array with one value a row.

        Returns:
            `datasets.search.BatchedSearchResults`: Scores, falling, and rows, each of shape `(num_queries, min(k,
            number of allowed rows))`. A query whose cells or part of the graph hold fewer is answered by scoring
            every allowed row, so that no place stays empty.

        Raises:
            ValueError: If the vectors do not fit the index or have a NaN or infinite value, `k` is below 1, an allowed
                id or row is unknown, or FAISS refuses `params`.
        """
        queries = to_float_tensor(queries)
        if queries.ndim != 2:
            raise ValueError(f"Queries must have shape (num_queries, embedding_dim), got {tuple(queries.shape)}.")
        check_dim(queries, self.embedding_dim)
        check_finite(queries)
        allowed = self._allowed(allowed_ids, allowed_rows)
        queries = np.ascontiguousarray(queries.numpy())
        scores, rows = best_rows(self.faiss_index, lambda: self._on_cpu, queries, check_k(k), allowed, params)
        return BatchedSearchResults(-scores if self.metric == "l2" else scores, rows)

    def attach(self, dataset, name="dense"):
        r"""
        Make `dataset.get_nearest_examples(name, vector, k)` search this index.

        Args:
            dataset (`datasets.Dataset`):
                The passages, in the order in which they were indexed.
            name (`str`, *optional*, defaults to `"dense"`):
                What to call the index.

        Returns:
            [`DenseIndex`]: This index.

        Raises:
            ValueError: If the dataset has another number of rows, or other ids or another order of them.
        """
        if self.ids is not None:
            check_ids_match(dataset, self.ids)
        elif len(dataset) != len(self):
            raise ValueError(f"The dataset has {len(dataset)} rows, but the index has {len(self)}.")
        dataset._indexes[name] = self
        return self

    def save(self, path, storage_options=_A_FOLDER):
        r"""
        Write the index to a folder, all at once: until the end, readers of an index already there see the old one.

        Args:
            path (`str` or `os.PathLike`):
                The folder, made if absent.
            storage_options (`dict`, *optional*):
                Not for you: `Dataset.save_faiss_index` gives it, and gets one FAISS file, without ids and metric.

        Raises:
            ValueError: If the folder holds something else, such as embeddings.
            OSError: If the folder cannot be written.
        """
        if storage_options is not _A_FOLDER:
            with fsspec.open(str(path), "wb", **(storage_options or {})) as file:
                return self._write(file)
        check_replaceable(path, INDEX_FORMAT)
        with FolderWriter(path) as folder:
            with open(folder.file("index.faiss"), "wb") as file:
                self._write(file)
            if self.ids is not None:
                write_ids(folder, self.ids)
            folder.commit(
                INDEX_FORMAT,
                num_passages=len(self),
                embedding_dim=self.embedding_dim,
                metric=self.metric,
                column=self.column,
            )

    @classmethod
    def load(cls, path, memory_map=True, device="cpu"):
        r"""
        Open an index written by [`~DenseIndex.save`]; [`~DenseIndex.attach`] it to the dataset then.

        Args:
            path (`str` or `os.PathLike`):
                The folder.
            memory_map (`bool`, *optional*, defaults to `True`):
                Leave vectors on disk until a search reads them. Ignored for a GPU.
            device (`"cpu"` or `"cuda"`, *optional*, defaults to `"cpu"`):
                Where to search. `None`: on a GPU if FAISS finds one.

        Returns:
            [`DenseIndex`].

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it holds no such index, or a file is missing, truncated or damaged.
        """
        faiss = import_faiss()
        manifest, files = read_folder(path, INDEX_FORMAT)
        file = files["index.faiss"]
        try:
            # Maps every kind; the older IO_FLAG_MMAP maps inverted files alone, which then save as a reference
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if memory_map and device == "cpu" else 0)
        except RuntimeError as error:
            raise ValueError(f"`{path}` is damaged: FAISS cannot read {file.name}: {error}") from error
        expected = manifest["num_passages"], manifest["embedding_dim"], faiss_metric(manifest["metric"])
        if (index.ntotal, index.d, index.metric_type) != expected:
            raise ValueError(f"`{path}` is damaged: {file.name} is not the index that its manifest describes.")
        ids = read_ids(files) if "ids.json" in files else None
        return cls(to_device(index, device), manifest["metric"], ids, manifest["column"])

    @cached_property
    def _on_cpu(self):
        return to_cpu(self.faiss_index)

    @cached_property
    def _row_of_id(self):
        return {id: row for row, id in enumerate(self.ids)}

    def _allowed(self, ids, rows):
        """Row numbers, rising, each once; `None` for all."""
        if ids is None and rows is None:
            return None
        if ids is not None and rows is not None:
            raise ValueError("Give `allowed_ids` or `allowed_rows`, not both.")
        return self._rows_of_ids(ids) if rows is None else self._checked_rows(rows)

    def _rows_of_ids(self, ids):
        if self.ids is None:
            raise ValueError("`allowed_ids` needs ids, but the dataset had no column `id`: use `allowed_rows`.")
        return rows_of_ids(ids, self._row_of_id)

    def _checked_rows(self, rows):
        rows = np.asarray(rows)
        if rows.dtype == bool and rows.shape == (len(self),):
            return np.flatnonzero(rows)
        if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
            raise ValueError(
                f"`allowed_rows` must be row numbers, or {len(self)} booleans, got {rows.dtype} of shape {rows.shape}."
            )
        rows = np.unique(rows.astype(np.int64))
        if rows.size and not 0 <= rows[0] <= rows[-1] < len(self):
            raise ValueError(f"`allowed_rows` must lie in 0 to {len(self) - 1}, got {rows[0]} to {rows[-1]}.")
        return rows

    def _write(self, file):
        """Write the FAISS index to an open file, whose errors are the system's own."""
        faiss = import_faiss()
        faiss.write_index(self._on_cpu, faiss.BufferedIOWriter(faiss.PyCallbackIOWriter(file.write)))


__all__ = ["DenseIndex"]
