"""Two processes under `accelerate launch` train, rank, evaluate, mine and resume like one process."""

from collections import namedtuple

import pytest
import torch
import two_process_retrieval
import two_processes
from launching import launch
from two_process_retrieval import FAMILIES, make_passages, make_questions, rank
from two_processes import CASES, make_retriever, make_tokenizer, train

from hf_xlir.evaluation import rank_passages


FAST_CASES = ("two towers nce, cached", "tokens")
Run = namedtuple("Run", ["negatives", "metrics", "weights"])


@pytest.fixture(scope="module")
def launched_fast(tmp_path_factory):
    """What two processes computed, by rank."""
    return launch(two_processes.__file__, tmp_path_factory.mktemp("fast"), *FAST_CASES)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The same of all cases."""
    return launch(two_processes.__file__, tmp_path_factory.mktemp("all"))


@pytest.fixture(scope="module")
def launched_ranking(tmp_path_factory):
    return launch(two_process_retrieval.__file__, tmp_path_factory.mktemp("ranking"), "ranking")


@pytest.fixture(scope="module")
def launched_retrieval(tmp_path_factory):
    return launch(two_process_retrieval.__file__, tmp_path_factory.mktemp("retrieval"))


def assert_equal_runs(run, expected, weights=1e-10):
    assert len(run["losses"]) == 5 and all(0 < loss < 100 for loss in run["losses"])
    assert run["losses"] == pytest.approx(expected["losses"], rel=0, abs=1e-6)  # the Trainer sums up in float32
    for name, of_one in expected["weights"].items():
        torch.testing.assert_close(run["weights"][name], of_one, rtol=0, atol=weights)
    for entry, of_one in zip(run["logs"], expected["logs"], strict=True):
        assert entry == pytest.approx(of_one, rel=1e-5, abs=1e-5)  # and so does the log


@pytest.mark.parametrize("case", FAST_CASES)
def test_two_processes_equal_one(launched_fast, tmp_path, case):
    one = train(case, tmp_path)
    for process in range(2):
        assert_equal_runs(launched_fast[process][case], one)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_in_every_case(launched, tmp_path, case):
    one = train(case, tmp_path)
    for process in range(2):
        assert_equal_runs(launched[process][case], one)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_in_float32(launched, tmp_path, case):
    one = train(case, tmp_path, dtype=torch.float32)
    for process in range(2):
        assert_equal_runs(launched[process]["float32"][case], one, weights=1e-5)


@pytest.mark.slow
def test_chunks_make_no_difference(launched):
    for case in CASES:
        if case.endswith(", cached"):
            assert_equal_runs(launched[0][case], launched[0][case.removesuffix(", cached")])


@pytest.mark.slow
def test_accumulation_and_a_stream(launched, tmp_path):
    accumulated = train("colbert nce", tmp_path, gradient_accumulation_steps=2)
    cached = train("two towers nce, cached", tmp_path, gradient_accumulation_steps=2)
    for process in range(2):
        assert_equal_runs(launched[process]["accumulated"], accumulated)
        assert_equal_runs(launched[process]["accumulated, cached"], cached)
        assert_equal_runs(launched[process]["streamed"], launched[process]["colbert nce"])


def assert_equal_rankings(found, expected):
    assert found[0] == expected.rankings
    for id, scores in expected.scores.items():
        assert found[1][id] == pytest.approx(scores, rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_processes_have_the_ranking_of_one(launched_ranking, family):
    model, processor = make_retriever(family, make_tokenizer())
    everything = (model.double(), processor, make_questions(), make_passages())
    expected = rank_passages(*everything, k=20, progress=False)
    assert all(len(ids) == 20 for ids in expected.rankings.values())
    assert_equal_rankings(rank(family, make_questions(), make_passages(), 20), expected)
    for of_process in launched_ranking:
        assert_equal_rankings(of_process[family], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_passages_and_questions_than_processes(launched_ranking, family):
    expected = rank(family, make_questions(1), make_passages(1), 20)
    assert expected.rankings == {"q0": ["p0"]}
    for of_process in launched_ranking:
        assert_equal_rankings(of_process[family, "few"], expected)


@pytest.mark.slow
def test_evaluation_and_refreshed_negatives_equal_those_of_one_process(launched_retrieval, tmp_path):
    one = Run(*two_process_retrieval.train(tmp_path, per_device_train_batch_size=12))
    assert len(one.metrics) == 4 and 0 < one.metrics[0]["eval_recall@5"] < 1
    for of_process in launched_retrieval:
        run = Run(*of_process["halves"])
        assert run.negatives == one.negatives
        assert run.metrics == [pytest.approx(metrics) for metrics in one.metrics]
        for name, weights in one.weights.items():
            torch.testing.assert_close(run.weights[name], weights, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_two_processes_resume_exactly(launched_retrieval):
    for of_process in launched_retrieval:
        whole, resumed = Run(*of_process["whole"]), Run(*of_process["resumed"])
        assert resumed.negatives == whole.negatives and resumed.metrics == whole.metrics
        assert all(torch.equal(resumed.weights[name], weights) for name, weights in whole.weights.items())


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_is_whole(launched_retrieval):
    for of_process in launched_retrieval:
        assert of_process["damage"] is None
        assert {"rng_state_0.pth", "rng_state_1.pth", "hard_negatives.json"} <= set(of_process["files"])
