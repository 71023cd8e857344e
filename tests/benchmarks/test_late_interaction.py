"""The benchmark of late interaction at its smallest, with and without a peer, and its parts say what they should."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_xlir.index import TokenEmbeddings


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# Stands in for fast-plaid: exact search, by a loop
FAST_PLAID = """
import json, pathlib, types
import torch

def compute_kmeans(documents):
    return documents[0][:1]

class FastPlaid:
    def __init__(self, index, device):
        self.path = pathlib.Path(index, "vectors.json")

    def create(self, documents, n_samples_kmeans=None):
        fast_plaid.compute_kmeans(documents)
        self.path.parent.mkdir(parents=True)
        self.path.write_text(json.dumps([each.float().tolist() for each in documents]))

    def search(self, queries, top_k, show_progress, n_processes, n_ivf_probe=8, n_full_scores=4096):
        documents = [torch.tensor(each) for each in json.loads(self.path.read_text())]
        scores = [[float((query @ each.T).max(dim=1).values.sum()) for each in documents] for query in queries]
        ranked = [sorted(range(len(each)), key=lambda row: -each[row]) for each in scores]
        return [[(row, each[row]) for row in rows[:top_k]] for rows, each in zip(ranked, scores)]

fast_plaid = types.SimpleNamespace(compute_kmeans=compute_kmeans, FastPlaid=FastPlaid)
"""


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("late_interaction")


@pytest.fixture
def embeddings(tmp_path):
    rng = np.random.default_rng(0)

    def unit(*shape):
        values = rng.standard_normal(shape, dtype=np.float32)
        return values / np.linalg.norm(values, axis=-1, keepdims=True)

    lengths = rng.integers(2, 8, 150)
    folder = tmp_path / "embeddings"
    folder.mkdir()
    ids = [str(row) for row in range(150)]
    values = unit(lengths.sum(), 16).astype(np.float16)
    TokenEmbeddings(values, lengths, ids, np.diag(np.arange(1.0, 17))).save(folder / "passages")
    np.save(folder / "queries.npy", unit(6, 6, 16))
    np.save(folder / "query_mask.npy", np.arange(6)[None] < np.array([[6], [3], [2], [4], [6], [5]]))
    return folder


@pytest.mark.slow
def test_smoke_run(tmp_path, embeddings):
    (tmp_path / "fast_plaid").mkdir()
    (tmp_path / "fast_plaid" / "__init__.py").write_text("")
    (tmp_path / "fast_plaid" / "search.py").write_text(FAST_PLAID)
    peer = tmp_path / "python"  # an environment of its own, without PYTHONPATH
    peer.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    peer.chmod(0o755)
    options = "--sizes 150 --num_queries 4 --query_sample 2 --nbits 4 --points fast 2,0,20 exact"
    options += " --rounds 2 --threads 1 --pooling_factors 2"
    command = [sys.executable, BENCHMARKS / "late_interaction.py", "--embeddings", embeddings, "--output", tmp_path]
    command += ["--peer_python", peer, "--query_tokens", "real", *options.split()]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Without warp: " in done.stdout and "fast-plaid: 150 passages built in " in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    (result,) = report["sizes"]
    assert result["passages"] == 150 and result["reference"] == "fast-plaid"
    exact, ours, peer = (result["engines"][name] for name in ("exact", "ours, 4 bits", "fast-plaid"))
    (truth,) = exact["points"].values()
    assert truth["R@10"] == truth["R@100"] == 1
    assert peer["points"]["default"]["R@100"] == 1  # the same tokens of the same queries and passages
    assert peer["points"]["default"]["throughput_ratio"] == 1 and set(peer["build_parts_s"]) == {"centroids"}
    ours_too = ["ours, 4 bits", "ours, 4 bits, pieces", "ours, 4 bits, no sample", "ours, 4 bits, pooled 2"]
    assert list(result["engines"]) == ["exact", *ours_too, "fast-plaid"]
    assert list(ours["points"]) == ["fast", "2,0,20", "exact"] and ours["points"]["exact"]["R@10"] > 0.7
    assert set(ours["build_parts_s"]) == {"centroids", "codes", "save"} and ours["bytes_per_token"] > 8 + 2 + 2
    assert ours["points"]["fast"]["p95_ms"] >= ours["points"]["fast"]["p50_ms"] > 0


def test_cost_at_a_recall_is_interpolated_along_the_best_points(benchmark):
    points = [{"r": 0.5, "ms": 1.0}, {"r": 0.4, "ms": 2.0}, {"r": 0.9, "ms": 4.0}, {"r": 0.9, "ms": 5.0}]
    assert benchmark.report.cost_at(points, "r", 0.7, "ms") == pytest.approx(2.0)  # between 1 and 4
    assert benchmark.report.cost_at(points, "r", 0.3, "ms") == 1.0
    assert benchmark.report.cost_at(points, "r", 0.9, "ms") == pytest.approx(4.0)
    assert benchmark.report.cost_at(points, "r", 0.95, "ms") is None


def test_growth_is_the_exponent(benchmark):
    sizes = [
        {
            "passages": size,
            "engines": {
                "ours": {
                    "points": {
                        str(recall): {
                            **{"R@10": recall, "R@100": 0.1, "batch_ms": factor * math.sqrt(size)},
                            **{"p50_ms": factor * size, "cpu_ms": 7.0 * factor},
                        }
                        for recall, factor in ((0.9, 1), (0.99, 3))
                    }
                }
            },
        }
        for size in (1000, 4000, 9000)
    ]
    exponents = {(fit["target"], fit["cost"]): fit["exponent"] for fit in benchmark.report.growth(sizes)["ours"]}
    expected = {"batch_ms": 0.5, "p50_ms": 1.0, "cpu_ms": 0.0}
    assert exponents == {
        (target, cost): pytest.approx(value, abs=1e-9) for target in (0.94, 0.98) for cost, value in expected.items()
    }


def test_ratios_are_of_rounds(benchmark):
    def answers(*seconds):
        rows = [list(range(100))]
        single = {"rss_mb": 1.0, "rows": rows}
        return [
            {
                "single": {**single, "seconds": [each, each, 9 * each]},
                "batch": {"rows": rows, "seconds": [2 * each], "cpu_seconds": 3 * each},
            }
            for each in seconds
        ]

    truth = [[*range(5), *range(200, 205), *range(100, 190)]]
    found = benchmark.report.summary_of_rounds(answers(1.0, 2.0, 4.0), answers(4.0, 4.0, 4.0), truth, 2)
    assert found["throughput_ratio"] == found["latency_ratio"] == 2.0
    assert found["p50_ms"] == 2000 and found["p95_ms"] == pytest.approx(16400) and found["queries_per_s"] == 0.5
    assert found["R@10"] == 0.5 and found["R@100"] == 0.05 and found["cpu_ms"] == 3000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--sizes", "200", "99"], "--sizes must be at least 100"),
        (["--points", "8,9"], "three numbers like 16,0,1000, got 8,9"),
        (["--peer_python", "missing"], "names no file: missing"),
    ],
)
def test_bad_arguments_are_told_before_work_starts(benchmark, capsys, arguments, message):
    with pytest.raises(SystemExit):
        benchmark.parse_args(["--embeddings", "missing", *arguments])
    assert message in capsys.readouterr().err


def test_too_few_embeddings_are_told(benchmark, embeddings):
    with pytest.raises(SystemExit, match="150 passages and 6 queries, 200 and 200 are needed"):
        benchmark.main(["--embeddings", str(embeddings), "--sizes", "200"])
