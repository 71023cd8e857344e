"""Making a FAISS index: which kind for how many vectors, what it is trained on, and on which device it lies."""

from importlib import metadata

import numpy as np
from transformers.utils import logging


logger = logging.get_logger(__name__)

ROWS_PER_BLOCK = 16_384
MOST_TRAINING_ROWS = 2**18
MOST_CELLS = 4_096  # what that many training rows can place: 64 for each, where k-means wants at least 39
# Below how many vectors each kind is the automatic choice; the last one has no bound
EXACT_BELOW = 100_000
UNCOMPRESSED_BELOW = 1_000_000
# A search looks at one cell in so many, but at no fewer than LEAST_PROBES
CELLS_PER_PROBE = 32
LEAST_PROBES = 16
HNSW_BREADTH = 64
OPQ_CODES = 256  # of the product quantiser that a rotation is trained with, whatever the one behind it has
# Up to so many allowed rows are all scored: one small product for all queries costs less than any search
MOST_ROWS_TO_SCAN = ROWS_PER_BLOCK
GPU_DISTRIBUTIONS = ("faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11")


def check_distributions():
    """
    Look at what is installed, without importing FAISS.

    Raises:
        ImportError: If a CPU and a GPU distribution are installed, which overwrite each other.
    """
    installed = [name for name in ("faiss-cpu", *GPU_DISTRIBUTIONS) if _is_installed(name)]
    if len(installed) > 1:
        keep = installed[-1]
        raise ImportError(
            f"{' and '.join(f'`{name}`' for name in installed)} are installed together, and both provide the module "
            f"`faiss`. Uninstall all of them and install one: `pip uninstall -y {' '.join(installed)}`, then "
            f"`pip install {keep}` for a machine with an NVIDIA GPU, or `pip install faiss-cpu` for any other."
        )


def import_faiss():
    """
    The module `faiss`.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ImportError(
            "Dense indexes need FAISS: `pip install faiss-cpu`, or `pip install faiss-gpu` for an NVIDIA GPU."
        ) from error
    return faiss


def _is_installed(name):
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def automatic_factory(num_vectors):
    r"""
    The kind of index for that many vectors; the table is in [`add_dense_index`].

    Args:
        num_vectors (`int`):
            How many there will be.

    Returns:
        `str`: A description for `faiss.index_factory`.

    Example:
    ```python
    >>> from hf_xlir.index.dense.faiss_index import automatic_factory

    >>> [automatic_factory(n) for n in (99_999, 100_000, 1_000_000)]
    ['Flat', 'IVF1024,Flat', 'IVF2048,SQ8']

    ```
    """
    if num_vectors < EXACT_BELOW:
        return "Flat"
    # The power of two below 4 * sqrt(n): finding the cells and reading them then cost about the same
    cells = min(2 ** int(np.log2(4 * np.sqrt(num_vectors))), MOST_CELLS)
    return f"IVF{cells},{'Flat' if num_vectors < UNCOMPRESSED_BELOW else 'SQ8'}"


def build_faiss_index(vectors, string_factory, metric, n_probe, seed, device):
    r"""
    A FAISS index of vectors that are read in blocks.

    Args:
        vectors ([`DenseVectors`]):
            What goes in.
        string_factory (`str`, *optional*):
            A description for `faiss.index_factory`.
        metric (`"inner_product"` or `"l2"`):
            How vectors compare.
        n_probe (`int`, *optional*):
            Cells of an inverted file that a search looks at.
        seed (`int`):
            Of the training sample.
        device (`"cpu"` or `"cuda"`, *optional*):
            See [`to_device`].

    Returns:
        `faiss.Index`.

    Raises:
        ValueError: If FAISS cannot make or train such an index, or as [`to_device`] raises.
    """
    faiss = import_faiss()
    string_factory = string_factory or automatic_factory(len(vectors))
    index = empty_index(string_factory, vectors.dim, metric)
    _set_breadth(faiss, index, n_probe, string_factory)
    index = to_device(index, device)
    if not index.is_trained:
        try:
            index.train(vectors.read(_training_rows(len(vectors), seed)))
        except RuntimeError as error:
            raise ValueError(
                f"FAISS cannot train an index {string_factory!r} on {min(len(vectors), MOST_TRAINING_ROWS)} vectors: "
                f"{error}"
            ) from error
    for start in range(0, len(vectors), ROWS_PER_BLOCK):
        index.add(vectors.read(np.arange(start, min(start + ROWS_PER_BLOCK, len(vectors)))))
    return index


def empty_index(string_factory, dim, metric="inner_product"):
    """An index without vectors, or a `ValueError` if FAISS cannot make such an index of so many dimensions."""
    try:
        return import_faiss().index_factory(dim, string_factory, faiss_metric(metric))
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot make an index {string_factory!r} of {dim} dimensions: {error}") from error


def index_problem(string_factory, dim, num_vectors):
    r"""
    Why there cannot be such an index, before there are vectors.

    Args:
        string_factory (`str`):
            A description for `faiss.index_factory`.
        dim (`int`):
            Of the vectors.
        num_vectors (`int`):
            How many there will be, of which at most 262,144 train it.

    Returns:
        `str`, or `None` if nothing speaks against it.

    Example:
    ```python
    >>> from hf_xlir.index.dense.faiss_index import index_problem

    >>> index_problem("IVF1024,SQ8", dim=64, num_vectors=1000)
    "FAISS cannot train an index 'IVF1024,SQ8' on 1000 vectors: it takes at least 1024"

    ```
    """
    try:
        least = _least_training_rows(empty_index(string_factory, dim))
    except ValueError as error:
        return str(error)
    rows = min(num_vectors, MOST_TRAINING_ROWS)
    if rows >= least:
        return None
    return f"FAISS cannot train an index {string_factory!r} on {rows} vectors: it takes at least {least}"


def _least_training_rows(owner):
    """As many as the largest of an index's codebooks has entries: k-means wants a vector for each."""
    faiss = import_faiss()
    index = faiss.downcast_index(owner)  # which is a view, and ends with its owner
    least = [1, getattr(index, "nlist", 1)]
    if hasattr(index, "pq"):
        least.append(index.pq.ksub)
    for name in ("rq", "prq"):  # residual quantizers, whose later codebooks have more to learn from than the first
        if hasattr(index, name):
            least.append(2 ** int(faiss.vector_to_array(getattr(index, name).nbits)[0]))
    if hasattr(index, "chain"):
        parts = (faiss.downcast_VectorTransform(index.chain.at(place)) for place in range(index.chain.size()))
        of_type = {"PCAMatrix": lambda part: part.d_out, "OPQMatrix": lambda part: OPQ_CODES}
        least += [of_type[type(part).__name__](part) for part in parts if type(part).__name__ in of_type]
    for name in ("index", "base_index", "refine_index", "storage"):
        if getattr(index, name, None) is not None:
            least.append(_least_training_rows(getattr(index, name)))
    return max(least)


def faiss_metric(metric):
    """FAISS's number of a metric, or a `ValueError`."""
    faiss = import_faiss()
    metrics = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
    if metric not in metrics:
        raise ValueError(f"`metric` must be one of {', '.join(metrics)}, got {metric!r}.")
    return metrics[metric]


def to_device(index, device):
    r"""
    Move an index to the GPUs, a copy on each.

    Args:
        index (`faiss.Index`):
            On the CPU.
        device (`"cpu"` or `"cuda"`, *optional*):
            `None`: on GPUs if FAISS finds one and has a GPU version of this kind of index, otherwise where it is.

    Returns:
        `faiss.Index`.

    Raises:
        ValueError: If `device` is `"cuda"` and that is not possible.
    """
    faiss = import_faiss()
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"`device` must be `None`, 'cpu' or 'cuda', got {device!r}.")
    if device == "cpu":
        return index
    if not faiss.get_num_gpus():
        if device == "cuda":
            raise ValueError(
                "`device='cuda'`, but FAISS finds no GPU: replace `faiss-cpu` by `faiss-gpu` and check that the "
                "driver sees the GPU, or leave `device` out."
            )
        return index
    try:
        return faiss.index_cpu_to_all_gpus(index)
    except RuntimeError as error:  # such as HNSW, which has no GPU version
        if device == "cuda":
            raise ValueError(f"FAISS has no GPU version of {type(index).__name__}: {error}") from error
        logger.info(f"{type(index).__name__} stays on the CPU: {error}")
        return index


def to_cpu(index):
    """The same index on the CPU: itself, or a copy of one that lies on GPUs."""
    faiss = import_faiss()
    return faiss.index_gpu_to_cpu(index) if is_on_gpu(index) else index


def is_on_gpu(index):
    """Whether an index lies on GPUs: alone, or as replicas."""
    return type(index).__name__.startswith(("GpuIndex", "IndexReplicas"))


def _set_breadth(faiss, index, n_probe, string_factory):
    """How much a search looks at: FAISS itself looks at one cell only, which loses most of what is near."""
    ivf = faiss.try_extract_index_ivf(index)
    if n_probe is not None:
        if isinstance(n_probe, bool) or not isinstance(n_probe, int | np.integer) or n_probe < 1:
            raise ValueError(f"`n_probe` must be a positive integer, got {n_probe!r}.")
        if ivf is None:
            raise ValueError(f"`n_probe` is for inverted files (`IVF...`), but the index is {string_factory!r}.")
    if ivf is not None:
        ivf.nprobe = min(ivf.nlist, n_probe or max(LEAST_PROBES, ivf.nlist // CELLS_PER_PROBE))
    elif hasattr(index, "hnsw"):
        index.hnsw.efSearch = HNSW_BREADTH


def _training_rows(num_rows, seed):
    """Row numbers, rising, so that a file is read in its order."""
    if num_rows <= MOST_TRAINING_ROWS:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, MOST_TRAINING_ROWS, replace=False, shuffle=False))


def best_rows(index, on_cpu, queries, k, allowed=None, params=None):
    r"""
    The best rows for each query, of all or of some.

    Few allowed rows are scored, all of them. Many are searched with a FAISS selector, where the kind of
    index has one. A query that gets fewer than `k` rows that way, since its cells or its part of the graph hold no
    more, is answered by scoring all allowed rows.

    Args:
        index (`faiss.Index`):
            The index.
        on_cpu (`Callable[[], faiss.Index]`):
            Returns the same index on the CPU: on GPUs FAISS has no selectors, and does not decode single rows.
        queries (`numpy.ndarray` of shape `(num_queries, embedding_dim)`):
            Float32, contiguous.
        k (`int`):
            Number of rows a query.
        allowed (`numpy.ndarray` of shape `(n,)`, *optional*):
            Row numbers, rising, each once.
        params (`faiss.SearchParameters`, *optional*):
            Of FAISS's search, without a selector.

    Returns:
        `tuple[numpy.ndarray, numpy.ndarray]`: FAISS's scores (similarities, or squared distances) and rows, best
        first, each of shape `(num_queries, min(k, number of allowed rows))`.

    Raises:
        ValueError: If FAISS refuses `params`.
    """
    k = min(k, index.ntotal if allowed is None else len(allowed))
    if not k or not len(queries):
        return np.empty((len(queries), k), dtype=np.float32), np.empty((len(queries), k), dtype=np.int64)
    if allowed is not None and (len(allowed) <= MOST_ROWS_TO_SCAN or _is_flat(index)):
        return scan(on_cpu(), queries, k, allowed)
    found = _search(index if allowed is None else on_cpu(), queries, k, allowed, params)
    if found is None:
        return scan(on_cpu(), queries, k, allowed)
    scores, rows = found
    starved = (rows < 0).any(axis=1)
    if starved.any():
        everything = np.arange(index.ntotal) if allowed is None else allowed
        scores[starved], rows[starved] = scan(on_cpu(), queries[starved], k, everything)
    return scores, rows


def scan(index, queries, k, rows):
    """Score all the given rows of an index on the CPU, decoded block by block: the best `k` as in [`best_rows`]."""
    faiss = import_faiss()
    ivf = faiss.try_extract_index_ivf(index)
    if _is_rabitq(faiss, ivf or index):  # decoding knows one bit a dimension only, its own scores know all
        found = _search(index, queries, k, rows, _params(faiss, index, every_cell=True))
        if (found[1] >= 0).all():
            return found
    if ivf is not None and ivf.direct_map.no():
        ivf.make_direct_map()  # where each row lies
    best = faiss.ResultHeap(len(queries), k, keep_max=index.metric_type == faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(rows), ROWS_PER_BLOCK):
        block = rows[start : start + ROWS_PER_BLOCK]
        vectors = index.reconstruct_batch(block)
        scores, positions = faiss.knn(queries, vectors, min(k, len(block)), metric=index.metric_type)
        best.add_result(scores, block[positions])
    best.finalize()
    return best.D, best.I


def _search(index, queries, k, allowed, params):
    """FAISS's own search; `None` if this kind of index takes no selector."""
    faiss = import_faiss()
    if allowed is None:
        try:
            return index.search(queries, k, params=params)
        except RuntimeError as error:
            raise ValueError(f"FAISS refuses the search: {error}") from error
    mask = np.zeros(index.ntotal, dtype=bool)
    mask[allowed] = True
    selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
    given, params = params, params or _params(faiss, index)
    innermost = _innermost(params)
    innermost.sel = selector
    try:
        return index.search(queries, k, params=params)
    except RuntimeError as error:
        if given is not None:
            raise ValueError(f"FAISS refuses the search: {error}") from error
        return None
    finally:
        innermost.sel = None  # the selector lives no longer than this call


def _params(faiss, index, every_cell=False):
    """Parameters with the index's own values: FAISS takes a selector only in those of the very kind of index."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_params(faiss, index.index, every_cell))
    if isinstance(index, faiss.IndexRefine):
        inner = _params(faiss, index.base_index, every_cell)
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=index.nlist if every_cell else index.nprobe, max_codes=index.max_codes)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=index.hnsw.efSearch)
    return faiss.SearchParameters()


def _innermost(params):
    """The parameters of the index that holds the vectors, under transforms and refinements."""
    for name in ("index_params", "base_index_params"):
        inner = getattr(params, name, None)
        if inner is not None:
            return _innermost(inner)
    return params


def _is_flat(index):
    return type(index).__name__.startswith("IndexFlat")


def _is_rabitq(faiss, index):
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _is_rabitq(faiss, index.index)
    return "RaBitQ" in type(index).__name__


__all__ = [
    "automatic_factory",
    "best_rows",
    "build_faiss_index",
    "check_distributions",
    "empty_index",
    "faiss_metric",
    "import_faiss",
    "index_problem",
    "is_on_gpu",
    "scan",
    "to_cpu",
    "to_device",
]
