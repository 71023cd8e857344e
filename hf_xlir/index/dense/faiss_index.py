"""FAISS: importing it, building an index from vectors in blocks, and searching it for exactly `k` rows."""

from importlib import metadata

import numpy as np
from transformers.utils import logging

from ...utils.checks import check_choice, check_integer


logger = logging.get_logger(__name__)

ROWS_PER_BLOCK = 16_384
MOST_TRAINING_ROWS = 2**18
MOST_CELLS = 4_096  # 64 training rows for each; k-means wants at least 39
# Each kind is the automatic choice below so many vectors; the last kind is not bounded
EXACT_BELOW = 100_000
UNCOMPRESSED_BELOW = 1_000_000
# A search looks at one cell in so many, but at no fewer than LEAST_PROBES
CELLS_PER_PROBE = 32
LEAST_PROBES = 16
HNSW_BREADTH = 64
OPQ_CODES = 256  # of the product quantizer that trains a rotation
# Up to so many allowed rows are all scored: one small matrix product costs less than any search
MOST_ROWS_TO_SCAN = ROWS_PER_BLOCK
GPU_DISTRIBUTIONS = ("faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11")


def check_distributions():
    """An `ImportError` if a CPU and a GPU distribution of FAISS are installed, which overwrite each other."""
    installed = [name for name in ("faiss-cpu", *GPU_DISTRIBUTIONS) if _is_installed(name)]
    if len(installed) > 1:
        keep = installed[-1]
        raise ImportError(
            f"{' and '.join(f'`{name}`' for name in installed)} are installed together, and both provide the module "
            f"`faiss`. Uninstall all of them and install one: `pip uninstall -y {' '.join(installed)}`, then "
            f"`pip install {keep}` for a machine with an NVIDIA GPU, or `pip install faiss-cpu` for any other."
        )


def import_faiss():
    """The module `faiss`, imported at first use; an `ImportError` that says how to install it."""
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
    """The description for `faiss.index_factory` by the number of vectors; the table is in [`add_dense_index`]."""
    if num_vectors < EXACT_BELOW:
        return "Flat"
    # The power of two below 4 * sqrt(n): finding the cells and reading them then cost about the same
    cells = min(2 ** int(np.log2(4 * np.sqrt(num_vectors))), MOST_CELLS)
    return f"IVF{cells},{'Flat' if num_vectors < UNCOMPRESSED_BELOW else 'SQ8'}"


def build_faiss_index(vectors, string_factory, metric, n_probe, seed, device):
    """A FAISS index of vectors that are read in blocks (`vectors.read(rows)`); arguments of [`add_dense_index`]."""
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
    """An index without vectors; a `ValueError` if FAISS cannot make one of so many dimensions."""
    try:
        return import_faiss().index_factory(dim, string_factory, faiss_metric(metric))
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot make an index {string_factory!r} of {dim} dimensions: {error}") from error


def index_problem(string_factory, dim, num_vectors):
    r"""
    Why FAISS cannot make or train an index; checked before there are vectors.

    Args:
        string_factory (`str`):
            A description for `faiss.index_factory`.
        dim (`int`):
            Dimensions of the vectors.
        num_vectors (`int`):
            Number of vectors. At most 262,144 of them train the index.

    Returns:
        `str` or `None`: The problem, if there is one.

    Example:
    ```python
    >>> from hf_xlir.index import index_problem

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
    """The number of entries of the largest codebook of an index: k-means wants a vector for each."""
    faiss = import_faiss()
    index = faiss.downcast_index(owner)  # a view, valid as long as its owner
    least = [1, getattr(index, "nlist", 1)]
    if hasattr(index, "pq"):
        least.append(index.pq.ksub)
    for name in ("rq", "prq"):  # residual quantizers; their later codebooks have more training rows than the first
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
    """FAISS's number of a metric."""
    faiss = import_faiss()
    metrics = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
    return metrics[check_choice("metric", metric, tuple(metrics))]


def to_device(index, device):
    """
    An index on the GPUs with a copy on each (`"cuda"`), on the CPU (`"cpu"`), or (`None`) on the GPUs if FAISS finds
    one and has a GPU version of this kind of index.
    """
    faiss = import_faiss()
    check_choice("device", device, (None, "cpu", "cuda"))
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
    """The same index on the CPU: itself, or a copy of an index on GPUs."""
    faiss = import_faiss()
    return faiss.index_gpu_to_cpu(index) if is_on_gpu(index) else index


def is_on_gpu(index):
    """Whether an index is on GPUs, alone or as replicas."""
    return type(index).__name__.startswith(("GpuIndex", "IndexReplicas"))


def _set_breadth(faiss, index, n_probe, string_factory):
    """Set how many cells a search looks at: FAISS's default of one cell loses most neighbours."""
    ivf = faiss.try_extract_index_ivf(index)
    if n_probe is not None:
        check_integer("n_probe", n_probe)
        if ivf is None:
            raise ValueError(f"`n_probe` is for inverted files (`IVF...`), but the index is {string_factory!r}.")
    if ivf is not None:
        ivf.nprobe = min(ivf.nlist, n_probe or max(LEAST_PROBES, ivf.nlist // CELLS_PER_PROBE))
    elif hasattr(index, "hnsw"):
        index.hnsw.efSearch = HNSW_BREADTH


def _training_rows(num_rows, seed):
    """Row numbers in rising order, so that a file is read in its order."""
    if num_rows <= MOST_TRAINING_ROWS:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, MOST_TRAINING_ROWS, replace=False, shuffle=False))


def best_rows(index, on_cpu, queries, k, allowed=None, params=None):
    """
    The best rows for each query (float32, contiguous), among all or the `allowed` ones (rising row numbers): FAISS's
    scores and rows, best first, each of shape `(num_queries, min(k, number of allowed rows))`.

    A few allowed rows are all scored. Many are searched with a FAISS selector, if the kind of index has one. A query
    whose cells or part of the graph hold fewer than `k` is answered by scoring all allowed rows. `on_cpu()` gives the
    same index on the CPU: on GPUs FAISS has neither selectors nor decoding of single rows.
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
    """Score all the given rows of an index on the CPU, decoded block by block; returns like [`best_rows`]."""
    faiss = import_faiss()
    ivf = faiss.try_extract_index_ivf(index)
    if _is_rabitq(faiss, ivf or index):  # decoding uses one bit per dimension, its own scores use all
        found = _search(index, queries, k, rows, _params(faiss, index, every_cell=True))
        if (found[1] >= 0).all():
            return found
    if ivf is not None and ivf.direct_map.no():
        ivf.make_direct_map()  # where each row is
    best = faiss.ResultHeap(len(queries), k, keep_max=index.metric_type == faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(rows), ROWS_PER_BLOCK):
        block = rows[start : start + ROWS_PER_BLOCK]
        vectors = index.reconstruct_batch(block)
        scores, positions = faiss.knn(queries, vectors, min(k, len(block)), metric=index.metric_type)
        best.add_result(scores, block[positions])
    best.finalize()
    return best.D, best.I


def _search(index, queries, k, allowed, params):
    """FAISS's own search; `None` if this kind of index does not take a selector."""
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
        innermost.sel = None  # the selector ends with this call


def _params(faiss, index, every_cell=False):
    """The index's own settings as search parameters; FAISS takes a selector only in those of the same kind."""
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
    """The parameters of the index that holds the vectors, inside transforms and refinements."""
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
