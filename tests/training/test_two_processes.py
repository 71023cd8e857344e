"""Two processes under `accelerate launch` against one process with batches of twice the size."""

import pytest
import torch
import two_processes
from launching import launch
from two_processes import CASES, train


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """What two processes computed, by rank."""
    return launch(two_processes.__file__, tmp_path_factory.mktemp("two_processes"))


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
