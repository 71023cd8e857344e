"""Evaluation data of scripts, metrics by language, and how a run ends."""

import json

import pytest
import torch
from datasets import Dataset
from two_processes import make_arguments, make_retriever, make_rows, make_tokenizer

from hf_xlir import RetrieverTrainer
from hf_xlir.training.retrieval_evaluation import RetrievalPrediction, retrieval_metrics
from support.runs import EvaluationArguments, metrics_by_language, train_and_save


PASSAGES = Dataset.from_dict({"id": list("abcdef"), "text": [f"text {id}" for id in "abcdef"]})
QUESTIONS = {"id": ["1", "2", "3"], "question": ["x", "y", "z"], "passage_ids": [["a"], ["b", "c"], ["d"]]}


def predict(languages=None, answers=None):
    questions = {**QUESTIONS, "lang": languages} if languages else QUESTIONS
    rankings = {"1": list("abcdef"), "2": list("bafedc"), "3": list("abcefd")}
    scores = {id: [6.0, 5.0, 4.0, 3.0, 2.0, 1.0] for id in rankings}
    relevance = dict(zip(QUESTIONS["id"], QUESTIONS["passage_ids"], strict=True))
    if answers:
        questions, relevance = {**questions, "answers": answers}, None
    return RetrievalPrediction(rankings, relevance, scores, Dataset.from_dict(questions), PASSAGES)


def test_languages_count_alike():
    metrics = metrics_by_language(predict(["ko", "fi", "ko"]))
    assert metrics["ko_recall@1"] == 0.5 and metrics["fi_recall@1"] == 0.5 and metrics["recall@1"] == 0.5
    assert metrics["ko_recall@5"] == 0.5 and metrics["fi_recall@5"] == 0.5
    assert metrics["success@5"] == pytest.approx((0.5 + 1.0) / 2)  # over questions it would be 2 / 3
    assert metrics["mrr@10"] == pytest.approx(((1 + 1 / 6) / 2 + 1) / 2)
    own = {name for name in metrics if name.startswith(("ko_", "fi_"))}
    assert own == {f"{language}_recall@{k}" for language in ("ko", "fi") for k in (1, 5)}
    assert set(metrics) - own == set(retrieval_metrics(predict()))


def test_one_language_and_none():
    expected = retrieval_metrics(predict())
    assert metrics_by_language(predict()) == expected
    assert metrics_by_language(predict(["fi"] * 3)) == expected
    assert metrics_by_language(predict([""] * 3)) == expected
    assert "other_recall@1" in metrics_by_language(predict(["fi", "", "fi"]))


def test_answers_instead_of_gold_passages():
    metrics = metrics_by_language(predict(["ko", "fi", "fi"], answers=[["text a"], ["text f"], ["nothing"]]))
    assert metrics == {
        "answer_recall@1": 0.5,
        "answer_recall@5": 0.75,
        "fi_answer_recall@1": 0.0,
        "fi_answer_recall@5": 0.5,
        "ko_answer_recall@1": 1.0,
        "ko_answer_recall@5": 1.0,
    }


def test_evaluation_data(tmp_path):
    assert EvaluationArguments().load() == {}
    for given, missing in (("eval_questions", "eval_passages"), ("eval_passages", "eval_questions")):
        with pytest.raises(ValueError, match=f"give `{missing}`, too"):
            EvaluationArguments(**{given: "file"})
    rows = Dataset.from_dict({**QUESTIONS, "lang": ["ko", "fi", "ko"], "answers": [[]] * 3})
    rows.to_json(tmp_path / "questions.jsonl")
    PASSAGES.to_json(tmp_path / "passages.jsonl")
    arguments = EvaluationArguments(str(tmp_path / "questions.jsonl"), str(tmp_path / "passages.jsonl"))
    loaded = arguments.load(str(tmp_path / "cache"))
    assert loaded["eval_dataset"]["id"][:] == ["1", "2", "3"] and loaded["eval_passages"]["id"][:] == list("abcdef")
    assert loaded["compute_metrics"] is metrics_by_language


def make_trainer(folder, **arguments):
    model, processor = make_retriever("colbert", make_tokenizer())
    own = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_k": 3, **arguments}
    questions = Dataset.from_dict({**QUESTIONS, "lang": ["ko", "fi", "ko"]})
    return RetrieverTrainer(
        model,
        make_arguments(folder, objective="in_batch_nce", **own),
        processor,
        train_dataset=make_rows(8),
        eval_dataset=questions,
        eval_passages=PASSAGES,
        compute_metrics=metrics_by_language,
    )


def test_a_run_that_is_over_is_not_trained_further(tmp_path):
    """Within an epoch, of two steps here, the Trainer alone would take one more each time."""
    weights = []
    for steps, reached in ((3, 3), (3, 3), (1, 3), (4, 4), (4, 4)):
        trainer = make_trainer(tmp_path, max_steps=steps, per_device_train_batch_size=4, save_steps=1)
        assert train_and_save(trainer)["eval_recall@1"] >= 0
        assert trainer.state.global_step == reached
        weights.append(trainer.model.linear.weight.detach().clone())
    assert torch.equal(weights[1], weights[0]) and torch.equal(weights[2], weights[0])
    assert torch.equal(weights[4], weights[3]) and not torch.equal(weights[3], weights[0])


def test_a_run_and_one_that_goes_on(tmp_path, capsys, monkeypatch):
    metrics = train_and_save(make_trainer(tmp_path))
    assert set(metrics) >= {"eval_recall@1", "eval_ko_recall@1", "eval_fi_recall@1"}
    written = json.loads((tmp_path / "eval_results.json").read_text())
    assert written == metrics
    assert json.loads((tmp_path / "train_results.json").read_text())["train_loss"] > 0
    printed = capsys.readouterr().out
    assert "train_loss" in printed and "eval_ko_recall@1" in printed
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "checkpoint-4"}
    assert "| Steps | 4 (4 epochs) |" in (tmp_path / "README.md").read_text()

    resumed = []

    def train(self, resume_from_checkpoint):
        resumed.append(resume_from_checkpoint)
        raise KeyboardInterrupt

    monkeypatch.setattr(RetrieverTrainer, "train", train)
    runs = (
        (tmp_path, {}),
        (tmp_path, {"resume_from_checkpoint": str(tmp_path / "checkpoint-2")}),
        (tmp_path / "new", {}),
    )
    for folder, arguments in runs:
        with pytest.raises(KeyboardInterrupt):
            train_and_save(make_trainer(folder, **arguments))
    assert resumed == [str(tmp_path / "checkpoint-4"), str(tmp_path / "checkpoint-2"), None]
