"""Which index for how many vectors, what it is trained on, and where it lies."""

import numpy as np
import pytest
from datasets import Dataset

from hf_xlir.index import DenseIndex, add_dense_index
from hf_xlir.index.dense import faiss_index
from hf_xlir.index.dense.faiss_index import automatic_factory, empty_index, import_faiss, index_problem


N, DIM = 2_000, 16


def clustered(n, seed):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((40, DIM))
    values = centres[rng.integers(40, size=n)] + 0.5 * rng.standard_normal((n, DIM))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def numbered(n=N):
    return Dataset.from_dict({"id": [str(i) for i in range(n)]})


@pytest.mark.parametrize(
    ("num_vectors", "expected"),
    [
        (1, "Flat"),
        (99_999, "Flat"),
        (100_000, "IVF1024,Flat"),
        (270_000, "IVF2048,Flat"),
        (999_999, "IVF2048,Flat"),
        (1_000_000, "IVF2048,SQ8"),
        (2_000_000, "IVF4096,SQ8"),
        (100_000_000, "IVF4096,SQ8"),
    ],
)
def test_automatic_factory(num_vectors, expected):
    assert automatic_factory(num_vectors) == expected


@pytest.mark.parametrize(
    ("string_factory", "least"),
    [
        ("PQ2np", 256),
        ("PQ4x3", 8),
        ("PQ4x4fs", 16),
        ("IVF40,SQ8", 40),
        ("IVF4,PQ4x5", 32),
        ("IVF33_HNSW8,Flat", 33),
        ("OPQ2,PQ2x3", 256),
        ("PCAR12,SQ8", 12),
        ("PCA8,IVF4,PQ4x5", 32),
        ("HNSW8_PQ4x3", 8),
        ("IDMap,PQ4x3", 8),
        ("PQ4x3,Refine(PQ4x4)", 16),
        ("RQ2x6", 64),
        ("IVF16,PRQ2x2x5", 32),
    ],
)
def test_as_few_vectors_as_faiss_can_train_on(string_factory, least):
    """What is said before there are vectors is what FAISS does with them."""
    values = clustered(least, 3)
    assert index_problem(string_factory, DIM, least) is None
    empty_index(string_factory, DIM).train(values)
    said = index_problem(string_factory, DIM, least - 1)
    assert said == f"FAISS cannot train an index {string_factory!r} on {least - 1} vectors: it takes at least {least}"
    with pytest.raises(RuntimeError):
        empty_index(string_factory, DIM).train(values[:-1])


def test_indexes_for_any_number_of_vectors_and_for_none():
    for string_factory in ("Flat", "SQ8", "SQfp16", "RaBitQ", "HNSW8", "SQ8,RFlat", "L2norm,Flat"):
        assert index_problem(string_factory, DIM, 1) is None
    assert "cannot make an index 'PQ5' of 16 dimensions" in index_problem("PQ5", DIM, 10**6)
    assert index_problem("IVF262144,Flat", DIM, 10**9) is None
    # A sample trains it, however many vectors there are
    assert "on 262144 vectors: it takes at least 262145" in index_problem("IVF262145,Flat", DIM, 10**9)


@pytest.mark.parametrize(("uncompressed_below", "least"), [(10**6, 0.97), (0, 0.93)])
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_recall_of_automatic_choices(uncompressed_below, least, metric, monkeypatch):
    monkeypatch.setattr(faiss_index, "EXACT_BELOW", 0)
    monkeypatch.setattr(faiss_index, "UNCOMPRESSED_BELOW", uncompressed_below)
    monkeypatch.setattr(faiss_index, "LEAST_PROBES", 8)
    values, queries = clustered(N, 0), clustered(50, 1)
    index = add_dense_index(numbered(), values, metric=metric).get_index("dense")
    assert index.faiss_index.nlist == 128 and index.faiss_index.nprobe == 8
    best = np.argsort(-(queries @ values.T), axis=1)[:, :10]
    rows = index.search_batch(queries, 10).total_indices
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, best, strict=True)]) >= least


def test_breadth_of_search():
    def index(factory, **options):
        return add_dense_index(numbered(), clustered(N, 0), string_factory=factory, **options).get_index("dense")

    faiss = import_faiss()
    assert index("IVF16,Flat").faiss_index.nprobe == 16
    assert index("IVF16,Flat", n_probe=3).faiss_index.nprobe == 3
    assert faiss.extract_index_ivf(index("PCA8,IVF16,Flat", n_probe=4).faiss_index).nprobe == 4
    assert index("HNSW8").faiss_index.hnsw.efSearch == 64
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match="`n_probe` must be a positive integer"):
            index("IVF16,Flat", n_probe=bad)
    with pytest.raises(ValueError, match="`n_probe` is for inverted files"):
        index("Flat", n_probe=3)


def test_training_sample_is_seeded_and_in_order(monkeypatch):
    monkeypatch.setattr(faiss_index, "MOST_TRAINING_ROWS", 500)
    first, same, other = (faiss_index._training_rows(N, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    assert len(set(first)) == 500 and (np.diff(first) > 0).all() and first.max() > 0.9 * N
    assert np.array_equal(faiss_index._training_rows(300, 0), np.arange(300))


def test_too_few_vectors_to_train():
    with pytest.raises(ValueError, match=r"cannot train an index 'IVF64,Flat' on 20 vectors"):
        add_dense_index(numbered(20), clustered(20, 0), string_factory="IVF64,Flat")


class OnGpu:
    """As much of a GPU index as matters here; like one, it has no selectors and decodes no single rows."""

    def __init__(self, index):
        self.index, self.d, self.ntotal = index, index.d, index.ntotal
        self.is_trained = index.is_trained

    def train(self, values):
        self.index.train(values)

    def add(self, values):
        self.index.add(values)
        self.ntotal = self.index.ntotal

    def search(self, queries, k, params=None):
        if params is not None and params.sel is not None:
            raise RuntimeError("no selectors on a GPU")
        return self.index.search(queries, k, params=params)


OnGpu.__name__ = "GpuIndexFlat"


@pytest.fixture
def gpu(monkeypatch):
    faiss = import_faiss()

    def to_gpus(index):
        if "HNSW" in type(index).__name__:
            raise RuntimeError("not implemented on GPU")
        return OnGpu(index)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_gpus, raising=False)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda index: index.index, raising=False)


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_gpu(gpu, factory, tmp_path):
    values, queries = clustered(N, 0), clustered(5, 1)
    dataset = add_dense_index(numbered(), values, string_factory=factory)
    index = dataset.get_index("dense")
    assert isinstance(index.faiss_index, OnGpu) and len(index) == N
    best = np.argsort(-(queries @ values.T), axis=1)
    assert np.array_equal(index.search_batch(queries, 10).total_indices, best[:, :10])
    odd = [[row for row in rows if row % 2][:10] for rows in best]
    rows = index.search_batch(queries, 10, allowed_rows=np.arange(1, N, 2)).total_indices
    assert rows.tolist() == odd
    index.save(tmp_path / "index")
    on_cpu, on_gpu = DenseIndex.load(tmp_path / "index"), DenseIndex.load(tmp_path / "index", device=None)
    assert not isinstance(on_cpu.faiss_index, OnGpu) and isinstance(on_gpu.faiss_index, OnGpu)
    for loaded in (on_cpu, on_gpu):
        assert np.array_equal(loaded.search_batch(queries, 10).total_indices, best[:, :10])


def test_a_kind_without_gpu_version(gpu):
    dataset = add_dense_index(numbered(200), clustered(200, 0), string_factory="HNSW8")
    assert type(dataset.get_index("dense").faiss_index).__name__ == "IndexHNSWFlat"
    with pytest.raises(ValueError, match="no GPU version of IndexHNSWFlat"):
        add_dense_index(numbered(200), clustered(200, 0), string_factory="HNSW8", device="cuda")


def test_devices(gpu, monkeypatch):
    dataset = add_dense_index(numbered(200), clustered(200, 0), device="cpu")
    assert type(dataset.get_index("dense").faiss_index).__name__ == "IndexFlat"
    with pytest.raises(ValueError, match="`device` must be"):
        add_dense_index(dataset, clustered(200, 0), device="tpu")
    monkeypatch.setattr(import_faiss(), "get_num_gpus", lambda: 0)
    with pytest.raises(ValueError, match="FAISS finds no GPU"):
        add_dense_index(dataset, clustered(200, 0), device="cuda")
