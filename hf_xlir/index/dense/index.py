"""The dense index: FAISS over one vector per passage, as a `datasets.Dataset` searches it."""

from functools import cached_property

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from datasets.search import BatchedSearchResults, FaissIndex, SearchResults

from ...data.passages import first_duplicate, gather
from ...utils.storage import FolderWriter, check_replaceable, read_folder
from ..checks import check_dim, check_finite, check_ids_match, check_k, rows_of_ids, to_float_tensor
from ..embeddings import DenseEmbeddings, as_dense_embeddings, read_ids, write_ids
from .faiss_index import best_rows, build_faiss_index, faiss_metric, import_faiss, to_cpu, to_device


INDEX_FORMAT = "hf_xlir.dense_index"
IDS_PER_READ = 100_000
LIST_TYPES = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_A_FOLDER = object()


def add_dense_index(
    dataset,
    embeddings_or_column,
    index_name="dense",
    string_factory=None,
    metric="inner_product",
    n_probe=None,
    seed=0,
    device=None,
):
    r"""
    Build a FAISS index and attach it to a dataset, so that `dataset.get_nearest_examples(index_name, vector, k)`
    searches it. [`DenseIndex.build`] makes the same index without a dataset.

    Without `string_factory`, the number of vectors decides:

    | vectors | index | a search looks at | bytes per dimension | recall@10 |
    |---|---|---|---|---|
    | below 100,000 | `Flat` | all vectors | 4 | 1 |
    | below 1,000,000 | `IVF{cells},Flat`, 1,024 or 2,048 cells | 1/32 of the cells | 4 | 1.00 |
    | more | `IVF{cells},SQ8`, 2,048 or 4,096 cells | 1/32 of the cells | 1 | 0.99 |

    Recall is against exact search among 100,000 clustered vectors of 384 dimensions, with 1,024 cells
    (`benchmarks/dense.py`); it is lower where vectors do not form clusters. Corpora that outgrow memory need another
    factory, such as `"IVF4096,RaBitQ4"` or `"IVF65536_HNSW32,PQ64"`.

    Methods of `Dataset` keep an attached index (of any kind), drop it or refuse to run. Attach it last, or save it and
    attach it again:

    | method | index |
    |---|---|
    | `with_format`, `set_format`, `reset_format`, `with_transform`, `set_transform` | kept |
    | `remove_columns`, `select_columns`, `rename_column`, `rename_columns`, `flatten` | kept |
    | `iter`, `unique`, `to_dict`, `to_pandas`, `to_csv`, `to_json`, `to_parquet` | kept |
    | `copy.deepcopy`, `pickle` | kept |
    | `map`, `add_column`, `add_item`, `cast`, `cast_column`, `class_encode_column` | dropped silently |
    | `concatenate_datasets`, `repeat`, `flatten_indices`, `to_iterable_dataset` | dropped silently |
    | `select`, `filter`, `shuffle`, `sort`, `shard`, `skip`, `take`, `train_test_split` | refused |
    | `batch`, `map` with `batched=True` that returns another number of rows | refused |
    | `save_to_disk` | refused: `drop_index` first |
    | `save_faiss_index` | this index alone, as one FAISS file without ids; use [`DenseIndex.save`] |

    Args:
        dataset (`datasets.Dataset`):
            The passages. If it has a column `id`, its values must differ: searches can then be limited to some ids.
        embeddings_or_column ([`DenseEmbeddings`], `numpy.ndarray`, `torch.Tensor` or `str`):
            One vector per row, of shape `(number of rows, embedding_dim)`, or the name of the column that holds them.
            They are read in blocks of 16,384, so memory-mapped vectors are never in memory as a whole. Vectors are
            used as they are: with the inner product long ones win, so normalise them first to compare angles.
        index_name (`str`, *optional*, defaults to `"dense"`):
            Name of the index in the dataset.
        string_factory (`str`, *optional*):
            A description for `faiss.index_factory`, such as `"IVF256,PQ32"`, `"HNSW32"` or `"RaBitQ"`. An index that
            needs training is trained on up to 262,144 of the vectors.
        metric (`"inner_product"` or `"l2"`, *optional*, defaults to `"inner_product"`):
            How vectors compare. Scores are higher-is-better for both: with `"l2"`, negated squared distances.
        n_probe (`int`, *optional*):
            Cells that a search of an inverted file (`IVF...`) looks at. By default 1/32 of them, and at least 16:
            FAISS's own default of 1 misses most neighbours. Graphs (`HNSW...`) search with a breadth of 64.
        seed (`int`, *optional*, defaults to 0):
            Seed of the training sample.
        device (`"cpu"` or `"cuda"`, *optional*):
            Where to train and search. By default on all GPUs, with a copy of the index on each, if `faiss-gpu` is
            installed, finds one and has a GPU version of this kind of index; otherwise on the CPU.

    Returns:
        `datasets.Dataset`: `dataset` itself. `dataset.get_index(index_name)` is the [`DenseIndex`].

    Raises:
        ImportError: If FAISS is missing.
        ValueError: If vectors and rows do not match, a vector has a NaN or infinite value, an id appears twice, FAISS
            cannot make or train such an index, or an argument is not one of those above.

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
    >>> scores, examples = passages.get_nearest_examples("dense", np.array([0.6, 0.8]), k=2, allowed_ids=["a"])
    >>> examples["text"]
    ['north']

    ```
    """
    faiss_metric(metric)
    vectors, ids, column = _vectors_of(dataset, embeddings_or_column)
    index = build_faiss_index(vectors, string_factory, metric, n_probe, seed, device)
    dataset._indexes[index_name] = DenseIndex(index, metric, ids, column)
    return dataset


class DenseIndex(FaissIndex):
    r"""
    A FAISS index whose scores are always higher-is-better, and that always returns `k` rows if it has them. Make one
    with [`~DenseIndex.build`], [`add_dense_index`] or [`~DenseIndex.load`].

    Args:
        faiss_index (`faiss.Index`):
            The index. Do not change it afterwards.
        metric (`"inner_product"` or `"l2"`):
            How it compares vectors. With `"l2"` a score is the negated squared distance.
        ids (`list[str]`, *optional*):
            The passages' ids, in the order of rows.
        column (`str`, *optional*):
            The dataset's column of vectors, if there is one; [`retrieve`] leaves it out of its rows.

    Example:
    ```python
    >>> import numpy as np
    >>> from hf_xlir.index import DenseIndex

    >>> index = DenseIndex.build(np.eye(2, dtype="float32"), ids=["a", "b"])
    >>> scores, rows = index.search_batch(np.array([[0.6, 0.8]]), k=1)
    >>> index.ids[rows[0][0]]
    'b'

    ```
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
        return self  # it never changes, so the copies that `dataset.with_format` makes can share it

    @classmethod
    def build(
        cls, embeddings, ids=None, string_factory=None, metric="inner_product", n_probe=None, seed=0, device=None
    ):
        r"""
        Build an index over one vector per passage.

        Args:
            embeddings ([`DenseEmbeddings`], `numpy.ndarray`, `torch.Tensor` or a `list` of vectors):
                Vectors of shape `(number of passages, embedding_dim)`, from [`embed_passages`] or any encoder. They
                are read in blocks, so memory-mapped vectors stay on disk, and used as they are, without normalisation.
            ids (`list[str]`, *optional*):
                The passages' ids, each one once. [`DenseEmbeddings`] have them; other vectors need them.
            string_factory (`str`, *optional*):
                A description for `faiss.index_factory`, such as `"IVF256,PQ32"`, `"HNSW32"` or `"RaBitQ"`; by default
                the number of vectors decides, see [`add_dense_index`]. An index that needs training is trained on up
                to 262,144 of the vectors.
            metric (`"inner_product"` or `"l2"`, *optional*, defaults to `"inner_product"`):
                How vectors compare. Scores are higher-is-better for both: with `"l2"`, negated squared distances.
            n_probe (`int`, *optional*):
                Cells that a search of an inverted file (`IVF...`) looks at. By default 1/32 of them, and at least 16:
                FAISS's own default of 1 misses most neighbours. Graphs (`HNSW...`) search with a breadth of 64.
            seed (`int`, *optional*, defaults to 0):
                Seed of the training sample.
            device (`"cpu"` or `"cuda"`, *optional*):
                Where to train and search. By default on all GPUs, with a copy of the index on each, if `faiss-gpu` is
                installed, finds one and has a GPU version of this kind of index; otherwise on the CPU.

        Returns:
            [`DenseIndex`]

        Raises:
            ImportError: If FAISS is missing.
            ValueError: If ids and vectors do not match, a vector has a NaN or infinite value, FAISS cannot make or
                train such an index, or an argument is not one of those above.
        """
        faiss_metric(metric)
        embeddings = as_dense_embeddings(embeddings, ids)
        if not len(embeddings):
            raise ValueError("`embeddings` has no passages: there is nothing to index.")
        index = build_faiss_index(_Vectors(embeddings.values), string_factory, metric, n_probe, seed, device)
        return cls(index, metric, embeddings.ids)

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
                FAISS's settings for this search alone.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages.
            allowed_rows (`numpy.ndarray` or `list[int]`, *optional*):
                Rank only these rows.
        """
        query = to_float_tensor(query)
        if query.ndim not in (1, 2) or (query.ndim == 2 and len(query) != 1):
            raise ValueError(
                f"A query must have the shape (embedding_dim,) or (1, embedding_dim), got {tuple(query.shape)}; "
                "`search_batch` takes several queries."
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
                Number of rows per query; all allowed rows if there are fewer.
            params (`faiss.SearchParameters`, *optional*):
                FAISS's settings for this search alone, such as `faiss.SearchParametersIVF(nprobe=64)`, without a
                selector.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages. Fewer are faster; up to 16,384 are all scored, in any kind of index.
            allowed_rows (`numpy.ndarray` or `list[int]`, *optional*):
                The same as row numbers, or as a boolean array with one value per row.

        Returns:
            `datasets.search.BatchedSearchResults`: Scores, falling, and rows, each of shape `(num_queries, min(k,
            number of allowed rows))`. If a query's cells or part of the graph hold fewer, every allowed row is scored,
            so that no place stays empty.

        Raises:
            ValueError: If the vectors do not fit the index or are not finite, `k` is below 1, an allowed id or row is
                unknown, or FAISS refuses `params`.
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
                Name of the index in the dataset.

        Returns:
            [`DenseIndex`]: This index.

        Raises:
            ValueError: If the dataset has another number of rows, other ids, or another order.
        """
        if self.ids is not None:
            check_ids_match(dataset, self.ids)
        elif len(dataset) != len(self):
            raise ValueError(f"The dataset has {len(dataset)} rows, but the index has {len(self)}.")
        dataset._indexes[name] = self
        return self

    def save(self, path, storage_options=_A_FOLDER):
        r"""
        Write the index to a folder. Until all of it is written, readers of the folder see the index that was there.

        Args:
            path (`str` or `os.PathLike`):
                The folder, made if absent.
            storage_options (`dict`, *optional*):
                For `Dataset.save_faiss_index` only, which writes one FAISS file, without ids and metric.

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
        Open an index that [`~DenseIndex.save`] wrote; then [`~DenseIndex.attach`] it to the dataset.

        Args:
            path (`str` or `os.PathLike`):
                The folder.
            memory_map (`bool`, *optional*, defaults to `True`):
                Whether vectors stay on disk until a search reads them. Ignored for a GPU.
            device (`"cpu"` or `"cuda"`, *optional*, defaults to `"cpu"`):
                Where to search. `None` is a GPU if FAISS finds one.

        Returns:
            [`DenseIndex`].

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it does not hold a dense index, or a file is missing, truncated or damaged.
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
        """Row numbers in rising order, each once; `None` for all."""
        if ids is None and rows is None:
            return None
        if ids is not None and rows is not None:
            raise ValueError("Give `allowed_ids` or `allowed_rows`, not both.")
        return self._rows_of_ids(ids) if rows is None else self._checked_rows(rows)

    def _rows_of_ids(self, ids):
        if self.ids is None:
            raise ValueError("`allowed_ids` needs ids, but the dataset has no column `id`: use `allowed_rows`.")
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
        """Write the FAISS index to an open file; errors are those of the file."""
        faiss = import_faiss()
        faiss.write_index(self._on_cpu, faiss.BufferedIOWriter(faiss.PyCallbackIOWriter(file.write)))


class _Vectors:
    """Vectors that are read in blocks: an array or tensor of shape `(number of rows, dim)`."""

    def __init__(self, values):
        self._values, self.dim = values, values.shape[1]

    def __len__(self):
        return len(self._values)

    def read(self, rows):
        """Vectors of some rows, float32 of shape `(number of rows, dim)`; a `ValueError` if one is not finite."""
        values = np.ascontiguousarray(self._read(rows), dtype=np.float32)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise ValueError(f"The vector of row {rows[finite.argmin()]} has a NaN or infinite value.")
        return values

    def _read(self, rows):
        if isinstance(self._values, torch.Tensor):
            return self._values[torch.from_numpy(rows)].detach().cpu().float().numpy()
        return self._values[rows]


class _ColumnVectors(_Vectors):
    """The vectors in a column of a dataset."""

    def __init__(self, dataset, column):
        if column not in dataset.column_names:
            raise ValueError(f"The dataset has no column {column!r}; it has {dataset.column_names}.")
        self._dataset, self._column, self.dim = dataset, column, None
        self.dim = self._read(np.arange(1)).shape[1]

    def __len__(self):
        return len(self._dataset)

    def _read(self, rows):  # undecoded: `datasets` would make an array per row
        table, positions = gather(self._dataset, rows, [self._column])
        parts = []
        for chunk in table.column(0).chunks:
            is_list = any(of_kind(chunk.type) for of_kind in LIST_TYPES)
            lengths = pc.unique(pc.list_value_length(chunk)).to_pylist() if is_list else []
            if len(lengths) != 1 or not lengths[0] or not _is_number(chunk.type.value_type):
                raise self._not_one_length()
            parts.append(chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), lengths[0]))
        if {part.shape[1] for part in parts} != {self.dim or parts[0].shape[1]}:
            raise self._not_one_length()
        return np.concatenate(parts)[positions]

    def _not_one_length(self):
        return ValueError(
            f"Column {self._column!r} must hold one vector per row, all of one length, got "
            f"{self._dataset.features[self._column]}."
        )


def _is_number(type):
    return pa.types.is_floating(type) or pa.types.is_integer(type)


def _vectors_of(dataset, source):
    """The vectors of a dataset's rows, their ids if they have some, and the column of the vectors if there is one."""
    if not isinstance(dataset, Dataset):
        raise ValueError(f"An index attaches to a `datasets.Dataset`, got {type(dataset).__name__}.")
    if not len(dataset):
        raise ValueError("The dataset is empty: there is nothing to index.")
    if isinstance(source, DenseEmbeddings):
        check_ids_match(dataset, source.ids)
        return _Vectors(source.values), source.ids, None
    ids = _ids_of(dataset)
    if isinstance(source, str):
        return _ColumnVectors(dataset, source), ids, source
    is_array = isinstance(source, np.ndarray | torch.Tensor)
    if not is_array or source.ndim != 2 or len(source) != len(dataset) or not source.shape[1]:
        got = tuple(source.shape) if is_array else type(source).__name__
        raise ValueError(
            "Embeddings must be `DenseEmbeddings`, an array or a tensor with one vector for each row of the dataset, "
            f"({len(dataset)}, embedding_dim), got {got}."
        )
    return _Vectors(source), ids, None


def _ids_of(dataset):
    if "id" not in dataset.column_names:
        return None
    ids = []
    with dataset.formatted_as(columns=["id"]):
        for start in range(0, len(dataset), IDS_PER_READ):
            ids += dataset[start : start + IDS_PER_READ]["id"]
    duplicate = first_duplicate(ids)
    if duplicate is not None:
        raise ValueError(f"Two rows of the dataset have the id `{duplicate}`: ids must be unique.")
    return ids


__all__ = ["DenseIndex", "add_dense_index"]
