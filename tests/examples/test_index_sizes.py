"""Reports of indexes' sizes: bytes from what FAISS stores, recall from rankings by hand."""

import numpy as np
import pytest

from hf_xlir.index import DenseEmbeddings
from support.index_sizes import compare_index_sizes, size_table


@pytest.fixture(scope="module")
def corpus():
    values = np.random.default_rng(0).standard_normal((600, 16)).astype("float32")
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return DenseEmbeddings(values, [f"p{row}" for row in range(600)])


def own_passage(rankings, k):
    """Query i is passage i, a little moved."""
    return np.mean([f"p{row}" in ranking[:k] for row, ranking in enumerate(rankings)])


def queries(corpus):
    return corpus.values[:40] + 0.02 * np.random.default_rng(1).standard_normal((40, 16)).astype("float32")


@pytest.mark.slow
def test_sizes_and_quality(corpus):
    half = np.arange(0, 600, 2)
    factories = ["Flat", "SQfp16", "SQ8", "PQ2", "IVF8,Flat", "RaBitQ"]
    report = compare_index_sizes(
        corpus, queries(corpus), own_passage, factories, {"all": np.arange(600), "half": half}, k=(1, 10)
    )
    assert [(row.passages, row.factory) for row in report] == [(n, f) for n in ("all", "half") for f in factories]
    by_name = {(row.passages, row.factory): row for row in report}
    # Bytes of a vector, and at most a few kilobytes of codebooks and headers
    for factory, code_bytes in {"Flat": 64, "SQfp16": 32, "SQ8": 16, "PQ2": 2, "IVF8,Flat": 72}.items():
        row = by_name["all", factory]
        assert 600 * code_bytes <= row.num_bytes < 600 * code_bytes + 20_000
        assert row.bytes_per_passage == row.num_bytes / 600
    assert by_name["all", "Flat"].quality == {1: 1.0, 10: 1.0}
    assert by_name["all", "SQ8"].quality[10] == 1.0
    assert by_name["all", "PQ2"].quality[1] < 1.0
    for factory in factories:
        assert by_name["half", factory].num_passages == 300
        assert by_name["half", factory].quality[10] <= 0.5  # every other one was left out
    assert by_name["half", "Flat"].quality[1] == 0.5


def test_table(corpus):
    report = compare_index_sizes(corpus, queries(corpus), own_passage, ["Flat", "SQ8"], k=(1, 5))
    head, line, flat, small = size_table(report).splitlines()
    assert (
        head == "| passages | index | dimensions | number | bytes/passage | MB | of the first | @1 | @5 | ms/query |"
    )
    assert head.count("|") == line.count("|") == flat.count("|") == small.count("|")
    assert flat.startswith("| all | Flat | 16 | 600 | 64.") and "| 100.0% | 1.000 | 1.000 |" in flat


def test_mistakes(corpus):
    with pytest.raises(ValueError, match="The passages 'none' are none"):
        compare_index_sizes(corpus, queries(corpus), own_passage, ["Flat"], {"none": np.arange(0)})
    with pytest.raises(ValueError, match="FAISS cannot make an index 'PQ5'"):
        compare_index_sizes(corpus, queries(corpus), own_passage, ["PQ5"])
