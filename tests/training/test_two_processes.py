"""Two processes under `accelerate launch` against one process with batches of twice the size."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from two_processes import CASES, train


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """What two processes computed, by rank."""
    folder = tmp_path_factory.mktemp("two_processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(port), two_processes.__file__, str(folder)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(launch, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def assert_equal_runs(run, expected, weights=1e-10):
    assert len(run["losses"]) == 5 and all(0 < loss < 100 for loss in run["losses"])
    assert run["losses"] == pytest.approx(expected["losses"], rel=0, abs=1e-6)  # the Trainer sums up in float32
    for name, of_one in expected["weights"].items():
        torch.testing.assert_close(run["weights"][name], of_one, rtol=0, atol=weights)
    for entry, of_one in zip(run["logs"], expected["logs"], strict=True):
        assert entry == pytest.approx(of_one, rel=1e-5, abs=1e-5)  # and so does the log


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(launched, tmp_path, case):
    one = train(case, tmp_path)
    for rank in range(2):
        assert_equal_runs(launched[rank][case], one)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_in_float32(launched, tmp_path, case):
    one = train(case, tmp_path, dtype=torch.float32)
    for rank in range(2):
        assert_equal_runs(launched[rank]["float32"][case], one, weights=1e-5)


def test_chunks_make_no_difference(launched):
    for case in CASES:
        if case.endswith(", cached"):
            assert_equal_runs(launched[0][case], launched[0][case.removesuffix(", cached")])


def test_accumulation_and_a_stream(launched, tmp_path):
    accumulated = train("colbert nce", tmp_path, gradient_accumulation_steps=2)
    cached = train("two towers nce, cached", tmp_path, gradient_accumulation_steps=2)
    for rank in range(2):
        assert_equal_runs(launched[rank]["accumulated"], accumulated)
        assert_equal_runs(launched[rank]["accumulated, cached"], cached)
        assert_equal_runs(launched[rank]["streamed"], launched[rank]["colbert nce"])
