"""Two processes under `accelerate launch` rank, evaluate, mine and resume like one."""

from collections import namedtuple

import pytest
import torch
import two_process_retrieval
from launching import launch
from two_process_retrieval import FAMILIES, make_passages, make_questions, rank, train
from two_processes import make_retriever, make_tokenizer

from hf_xlir.evaluation import rank_passages


Run = namedtuple("Run", ["negatives", "metrics", "weights"])


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    return launch(two_process_retrieval.__file__, tmp_path_factory.mktemp("two_processes"))


def assert_equal_rankings(found, expected):
    assert found[0] == expected.rankings
    for id, scores in expected.scores.items():
        assert found[1][id] == pytest.approx(scores, rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_processes_have_the_ranking_of_one(launched, family):
    model, processor = make_retriever(family, make_tokenizer())
    everything = (model.double(), processor, make_questions(), make_passages())
    expected = rank_passages(*everything, k=20, progress=False)
    assert all(len(ids) == 20 for ids in expected.rankings.values())
    assert_equal_rankings(rank(family, make_questions(), make_passages(), 20), expected)
    for of_process in launched:
        assert_equal_rankings(of_process[family], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_passages_and_questions_than_processes(launched, family):
    expected = rank(family, make_questions(1), make_passages(1), 20)
    assert expected.rankings == {"q0": ["p0"]}
    for of_process in launched:
        assert_equal_rankings(of_process[family, "few"], expected)


def test_evaluation_and_refreshed_negatives_equal_those_of_one_process(launched, tmp_path):
    one = Run(*train(tmp_path, per_device_train_batch_size=12))
    assert len(one.metrics) == 4 and 0 < one.metrics[0]["eval_recall@5"] < 1
    for of_process in launched:
        run = Run(*of_process["halves"])
        assert run.negatives == one.negatives
        assert run.metrics == [pytest.approx(metrics) for metrics in one.metrics]
        for name, weights in one.weights.items():
            torch.testing.assert_close(run.weights[name], weights, rtol=0, atol=1e-10)


def test_two_processes_resume_exactly(launched):
    for of_process in launched:
        whole, resumed = Run(*of_process["whole"]), Run(*of_process["resumed"])
        assert resumed.negatives == whole.negatives and resumed.metrics == whole.metrics
        assert all(torch.equal(resumed.weights[name], weights) for name, weights in whole.weights.items())


def test_a_checkpoint_of_two_processes_is_whole(launched):
    for of_process in launched:
        assert of_process["damage"] is None
        assert {"rng_state_0.pth", "rng_state_1.pth", "hard_negatives.json"} <= set(of_process["files"])
