"""Searches of every kind of FAISS index among some rows, against plain NumPy."""

import numpy as np
import pytest

from hf_xlir.index.dense import faiss_index
from hf_xlir.index.dense.faiss_index import best_rows, import_faiss, scan


N, DIM, K = 600, 16, 10
# How many of the ten best allowed rows are found at least, when all allowed rows are scored
KINDS = {
    "Flat": 1,
    "SQ8": 0.9,
    "PQ8x4": 0.4,
    "PQ8x4fs": 0.4,
    "RaBitQ": 0.4,
    "RaBitQ4": 0.8,
    "HNSW8": 1,
    "HNSW8,SQ8": 0.9,
    "IVF8,Flat": 1,
    "IVF8,SQ8": 0.9,
    "IVF8,PQ8x4": 0.4,
    "IVF8,RaBitQ4": 0.8,
    "IVF8_HNSW8,Flat": 1,
    "OPQ8,IVF8,PQ8x4": 0.4,
    "PCA12,SQ8": 0.4,
    "RR16,RaBitQ4": 0.8,
    "IVF8,PQ8x4fs,RFlat": 1,
}


def vectors(n, seed):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def build(kind, values, l2=False):
    faiss = import_faiss()
    index = faiss.index_factory(DIM, kind, faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT)
    index.train(values)
    index.add(values)
    return index


def best(queries, values, allowed, l2=False):
    queries, values = queries.astype(np.float64), values[allowed].astype(np.float64)
    scores = queries @ values.T
    if l2:
        scores = -((queries[:, None] - values[None]) ** 2).sum(axis=2)
    return allowed[np.argsort(-scores, axis=1)[:, :K]]


def overlap(rows, expected):
    return np.mean([len(set(a) & set(b)) / K for a, b in zip(rows, expected, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("few", [True, False], ids=["all scored", "selected"])
def test_every_kind_returns_k_of_the_allowed_rows(kind, few, monkeypatch):
    if not few:
        monkeypatch.setattr(faiss_index, "MOST_ROWS_TO_SCAN", 0)
    values, queries = vectors(N, 0), vectors(5, 1)
    allowed = np.sort(np.random.default_rng(2).choice(N, 40, replace=False))
    index = build(kind, values)
    scores, rows = best_rows(index, lambda: index, queries, K, allowed)
    assert rows.shape == scores.shape == (5, K)
    assert np.isin(rows, allowed).all() and all(len(set(found)) == K for found in rows)
    assert (np.diff(scores, axis=1) <= 1e-6).all()
    if few:  # otherwise it is the search of the index, which may look at one cell
        assert overlap(rows, best(queries, values, allowed)) >= KINDS[kind]
    everything = best_rows(index, lambda: index, queries, 1_000, allowed)[1]
    assert np.array_equal(np.sort(everything, axis=1), np.tile(allowed, (5, 1)))


@pytest.mark.parametrize("kind", ["IVF8,Flat", "HNSW8", "SQ8"])
def test_unlimited_search_returns_every_row_if_asked(kind):
    values = vectors(N, 0)
    index = build(kind, values)
    scores, rows = best_rows(index, lambda: index, vectors(3, 1), N + 5)
    assert np.array_equal(np.sort(rows, axis=1), np.tile(np.arange(N), (3, 1)))
    assert np.isfinite(scores).all() and (np.diff(scores, axis=1) <= 1e-6).all()


def test_only_starved_queries_are_scanned(monkeypatch):
    # Two far groups, each a cell: one query's own cell holds enough allowed rows, the other one's too few
    values = vectors(N, 0) * 0.01
    values[:300, 0] += 1
    values[300:, 0] -= 1
    index = build("IVF2,Flat", values)
    queries = np.zeros((2, DIM), dtype=np.float32)
    queries[:, 0] = 1, -1
    allowed = np.concatenate([np.arange(300), [400, 500]])
    monkeypatch.setattr(faiss_index, "MOST_ROWS_TO_SCAN", 0)
    scanned = []
    monkeypatch.setattr(
        faiss_index, "scan", lambda index, q, *args: scanned.append(q.tolist()) or scan(index, q, *args)
    )
    _, rows = best_rows(index, lambda: index, queries, K, allowed)
    assert scanned == [queries[1:].tolist()]
    assert (rows[0] < 300).all() and set(rows[1][:2]) == {400, 500}
    assert np.array_equal(rows, best(queries, values, allowed))


@pytest.mark.parametrize("l2", [False, True])
def test_flat_is_exact_block_by_block(l2, monkeypatch):
    monkeypatch.setattr(faiss_index, "ROWS_PER_BLOCK", 7)
    values, queries = vectors(N, 0), vectors(5, 1)
    allowed = np.arange(3, N, 2)
    index = build("Flat", values, l2)
    scores, rows = best_rows(index, lambda: index, queries, K, allowed)
    assert np.array_equal(rows, best(queries, values, allowed, l2))
    assert (np.diff(scores, axis=1) >= 0).all() if l2 else (np.diff(scores, axis=1) <= 0).all()


def test_nothing_to_find():
    index = build("Flat", vectors(N, 0))
    scores, rows = best_rows(index, lambda: index, vectors(3, 1), K, np.array([], dtype=np.int64))
    assert scores.shape == rows.shape == (3, 0)
    assert best_rows(index, lambda: index, vectors(0, 1), K)[1].shape == (0, K)


def test_parameters_with_and_without_a_selector(monkeypatch):
    faiss = import_faiss()
    monkeypatch.setattr(faiss_index, "MOST_ROWS_TO_SCAN", 0)
    values, queries = vectors(N, 0), vectors(5, 1)
    allowed = np.arange(0, N, 2)
    index = build("RR16,IVF8,Flat", values)
    inner = faiss.SearchParametersIVF(nprobe=8)
    params = faiss.SearchParametersPreTransform(index_params=inner)
    _, rows = best_rows(index, lambda: index, queries, K, allowed, params)
    assert np.array_equal(rows, best(queries, values, allowed))
    _, rows = best_rows(index, lambda: index, queries, K, None, params)  # the selector is gone from the parameters
    assert np.array_equal(rows, best(queries, values, np.arange(N)))
    for limited in (None, allowed):
        with pytest.raises(ValueError, match="FAISS refuses the search"):
            best_rows(index, lambda: index, queries, K, limited, faiss.SearchParametersHNSW())
