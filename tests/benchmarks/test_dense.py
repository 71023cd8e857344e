"""The dense benchmark runs, and its recall is that of the automatic choices."""

import importlib.util
import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_small_run(tmp_path):
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "dense.py"
    spec = importlib.util.spec_from_file_location("benchmarks_dense", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    options = "--sizes 800 --dim 16 --num_queries 20 --k 5 --repetitions 2 --num_threads 1"
    report = module.main([*options.split(), "--output", str(tmp_path / "report.json")])
    assert json.loads((tmp_path / "report.json").read_text()) == report
    (row,) = report["overhead"]
    assert row["passages"] == 800 and row["faiss_ratio"] == 1 and row["gather_s"] > 0
    assert row["get_nearest_examples_batch_s"] > 0 and row["retrieve_every_row_s"] > 0
    flat, inverted, compressed = report["recall"]
    assert flat["string_factory"] == "Flat" and flat["recall@10"] == 1
    assert inverted["string_factory"] == "IVF64,Flat" and inverted["n_probe"] == 16 and inverted["recall@10"] >= 0.95
    assert compressed["string_factory"] == "IVF64,SQ8" and compressed["recall@10"] >= 0.9
