"""Searching a FAISS index so that `k` rows come back whenever `k` rows are allowed."""

import numpy as np

from .faiss_building import ROWS_PER_BLOCK
from .faiss_import import import_faiss


# Up to so many allowed rows all of them are scored: one small product for all queries, cheaper than any search
MOST_ROWS_TO_SCAN = ROWS_PER_BLOCK


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


__all__ = ["best_rows", "scan"]
