"""Evaluation during training is retrieval over all evaluation passages."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from two_process_retrieval import make_passages, make_questions
from two_processes import make_arguments, make_retriever, make_rows, make_tokenizer

from hf_xlir import RetrieverTrainer
from hf_xlir.index import Encoder
from hf_xlir.training import RetrievalPrediction, mine_hard_negatives, rank_passages_together, retrieval_metrics


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def make_trainer(tokenizer, tmp_path):
    def make(family="colbert", eval_dataset=None, compute_metrics=None, callbacks=None, **arguments):
        model, processor = make_retriever(family, tokenizer, dropout=0.1)
        return RetrieverTrainer(
            model,
            make_arguments(tmp_path / "out", objective="in_batch_nce", **arguments),
            processor,
            train_dataset=make_rows(),
            eval_dataset=make_questions() if eval_dataset is None else eval_dataset,
            eval_passages=make_passages(),
            compute_metrics=compute_metrics,
            callbacks=callbacks,
        )

    return make


def rank_by_hand(trainer, questions, passages):
    """Every question against every passage, one pair at a time."""
    model, processor, rankings = trainer.model.eval(), trainer.processing_class, {}
    documents = [
        (row["id"], model(**processor.process_documents([row["text"]], titles=[row["title"]]))) for row in passages
    ]
    with torch.no_grad():
        for row in questions:
            query = model(**processor.process_queries([row["question"]]))
            scores = {id: processor.score(query, document).item() for id, document in documents}
            rankings[row["id"]] = sorted(scores, key=lambda id: -scores[id])
    return rankings


@pytest.mark.parametrize("family", ["colbert", "biencoder"])
def test_compute_metrics_receives_rankings_over_all_passages(make_trainer, family):
    received = []

    def compute_metrics(prediction):
        received.append(prediction)
        return {"answer": torch.tensor(42.0)}

    trainer = make_trainer(family, compute_metrics=compute_metrics, eval_k=30)
    trainer.model.train()
    metrics = trainer.evaluate()
    assert trainer.model.training  # as it was
    assert metrics["eval_answer"] == 42.0 and isinstance(metrics["eval_answer"], float)
    rankings, relevance = received[0]
    assert rankings == rank_by_hand(trainer, make_questions(), make_passages())
    assert relevance == {f"q{i}": [f"p{i}", f"p{i + 1}"] for i in range(12)}
    assert received[0].scores["q3"] == sorted(received[0].scores["q3"], reverse=True)
    assert received[0].questions[:] == make_questions()[:] and len(received[0].passages) == 30


def test_metrics_by_default(make_trainer):
    trainer = make_trainer(eval_k=20)
    metrics = trainer.evaluate()
    rankings = rank_by_hand(trainer, make_questions(), make_passages())
    found = [[f"p{i}" in rankings[f"q{i}"][:5], f"p{i + 1}" in rankings[f"q{i}"][:5]] for i in range(12)]
    assert 0 < metrics["eval_recall@5"] < 1
    assert metrics["eval_recall@5"] == pytest.approx(sum(map(sum, found)) / 24)
    assert metrics["eval_success@5"] == pytest.approx(sum(map(any, found)) / 12)
    ranks = [min(rankings[f"q{i}"].index(gold) for gold in (f"p{i}", f"p{i + 1}")) + 1 for i in range(12)]
    assert metrics["eval_mrr@10"] == pytest.approx(sum(1 / rank for rank in ranks if rank <= 10) / 12)
    assert {name for name in metrics if "@" in name} == {
        *(f"eval_{kind}@{k}" for kind in ("recall", "success") for k in (1, 5, 10, 20)),
        "eval_mrr@10",
        "eval_ndcg@10",
    }
    assert metrics["eval_runtime"] > 0 and "eval_loss" not in metrics
    assert trainer.predict(make_questions()).predictions == {id: ids[:20] for id, ids in rankings.items()}


def test_answers_instead_of_gold_passages(make_trainer):
    questions = make_questions().remove_columns("passage_ids")
    trainer = make_trainer(eval_dataset=questions)
    metrics = trainer.evaluate()
    rankings = rank_by_hand(trainer, questions, make_passages())
    text_of_id = dict(zip(make_passages()["id"], make_passages()["text"], strict=True))
    for k in (1, 5):
        held = [
            any(row["answers"][0] in text_of_id[id].split() for id in rankings[row["id"]][:k]) for row in questions
        ]
        assert metrics[f"eval_answer_recall@{k}"] == pytest.approx(sum(held) / 12)
    assert metrics["eval_answer_recall@1"] < 1
    assert not any(name.startswith("eval_recall") for name in metrics)


def test_several_languages_and_rows_with_a_loss(make_trainer):
    seen = []

    class Watch(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            seen.append(metrics)

    parts = {"fi": make_questions(4), "fi_FI": make_questions(8, first=4)}
    rows = make_rows(16).add_column("question", ["kept by mining"] * 16)
    trainer = make_trainer(eval_dataset={**parts, "rows": rows}, callbacks=[Watch()])
    metrics = trainer.evaluate()
    for name, questions in parts.items():
        alone = trainer.evaluate(questions)
        assert metrics[f"eval_{name}_recall@5"] == alone["eval_recall@5"]
        assert metrics[f"eval_{name}_ndcg@10"] == alone["eval_ndcg@10"]
    mean = (metrics["eval_fi_recall@5"] + metrics["eval_fi_FI_recall@5"]) / 2
    assert metrics["eval_recall@5"] == pytest.approx(mean)
    assert metrics["eval_fi_recall@5"] != metrics["eval_fi_FI_recall@5"]
    assert "eval_rows_loss" in metrics and "eval_rows_recall@5" not in metrics and "eval_loss" not in metrics
    assert "eval_recall@5" in seen[3] and "eval_runtime" not in seen[3]  # after one for each dataset
    assert any(entry.get("eval_recall@5") == metrics["eval_recall@5"] for entry in trainer.state.log_history)


BEST = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 4}
BEST |= {"load_best_model_at_end": True}


@pytest.mark.parametrize(("values", "best"), [([0.1, 0.6, 0.3, 0.6], 2), ([0.1, 0.2, 0.3, 0.4], 4)])
def test_the_metric_selects_the_checkpoint(make_trainer, tmp_path, values, best):
    given = iter(values)
    trainer = make_trainer(
        compute_metrics=lambda prediction: {"recall@5": next(given)},
        metric_for_best_model="recall@5",
        save_total_limit=1,
        **BEST,
    )
    trainer.train()
    checkpoint = tmp_path / "out" / f"checkpoint-{best}"
    assert trainer.state.best_model_checkpoint == str(checkpoint) and trainer.state.best_metric == max(values)
    assert list(Path(tmp_path, "out").glob("checkpoint-*")) == [checkpoint]
    weights = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in trainer.model.state_dict().items())


def test_the_best_checkpoint_is_known_after_resuming(make_trainer, tmp_path):
    given = iter([0.1, 0.6, 0.3, 0.2, 0.3, 0.2])
    arguments = {"compute_metrics": lambda prediction: {"fi_recall@5": next(given)}, **BEST}
    arguments["metric_for_best_model"] = "eval_fi_recall@5"
    make_trainer(**arguments).train()
    resumed = make_trainer(**arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert resumed.state.best_model_checkpoint == str(tmp_path / "out" / "checkpoint-2")
    best, _ = make_retriever("colbert", make_tokenizer())
    best.load_state_dict(load_file(tmp_path / "out" / "checkpoint-2" / "model.safetensors"))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, best.state_dict()[name])


def test_metric_of_all_languages_selects(make_trainer):
    parts = {"fi": make_questions(4), "ja": make_questions(8, first=4)}
    trainer = make_trainer(eval_dataset=parts, metric_for_best_model="recall@5", **BEST)
    trainer.train()
    logged = [entry["eval_recall@5"] for entry in trainer.state.log_history if "eval_recall@5" in entry]
    assert len(logged) == 4 and trainer.state.best_metric == max(logged)


def test_training_is_the_same_however_often_it_is_evaluated(make_trainer):
    arguments = {"max_steps": 4, "optim": "adamw_torch", "train_sampling_strategy": "random"}
    weights = []
    for strategy in ("no", "steps"):
        dataset = {"fi": make_questions(), "rows": make_rows()}
        trainer = make_trainer(eval_dataset=dataset, eval_strategy=strategy, eval_steps=1, **arguments)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_fewer_passages_than_are_asked_for():
    prediction = RetrievalPrediction({"q": ["b", "a", "c"]}, {"q": ["a"]}, None, None, None)
    metrics = {"recall@1": 0.0, "success@1": 0.0, "mrr@10": 0.5, "ndcg@10": pytest.approx(0.6309, abs=1e-4)}
    assert retrieval_metrics(prediction) == metrics


def change(**values):
    questions = make_questions(3)
    return questions.map(lambda row: values if row["id"] == "q1" else {}, features=questions.features)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eval_dataset": change(passage_ids=["p1", "p99"])}, r"`q1` has gold passages not in .*: \['p99'\]"),
        ({"eval_dataset": change(passage_ids=[])}, "`q1` has no passage_ids: leave it out"),
        ({"eval_dataset": {"fi": make_questions(), "ja": change(passage_ids=[])}}, "`q1` has no passage_ids"),
        ({"eval_dataset": make_questions().remove_columns("id")}, "need the columns `id`, `question`, and"),
        (
            {"eval_dataset": make_questions().remove_columns(["passage_ids", "answers"])},
            r"`passage_ids` or `answers`, got \['id', 'question'\]",
        ),
        ({"eval_dataset": make_questions().to_iterable_dataset()}, "must be a `datasets.Dataset`, got Iterable"),
        ({"eval_dataset": make_rows()}, "`eval_passages`.*`eval_dataset`"),
        (
            {"metric_for_best_model": "recall@7"},
            r"'recall@7', but evaluation computes \['recall@1', .*'ndcg@10'\]. Choose",
        ),
        ({"metric_for_best_model": "loss"}, "is 'loss', but evaluation computes"),
        (
            {"eval_dataset": {"fi": make_questions()}, "metric_for_best_model": "ja_recall@5"},
            r"\['recall@1', .*'fi_recall@1'",
        ),
        ({"eval_k": 0}, "`eval_k`"),
    ],
)
def test_errors_before_training(make_trainer, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**arguments)


def test_known_metrics_are_no_error(make_trainer):
    both = {"fi": make_questions(), "rows": make_rows()}
    for name in ("fi_recall@5", "eval_recall@20", "mrr@10", "rows_loss"):
        make_trainer(eval_dataset=both, metric_for_best_model=name)


def test_errors_about_missing_passages(tokenizer, tmp_path):
    model, processor = make_retriever("colbert", tokenizer)
    arguments = make_arguments(tmp_path, objective="in_batch_nce")
    for kwargs, message in (
        ({"eval_dataset": make_questions()}, "Evaluation questions need `eval_passages`"),
        ({"eval_dataset": {"fi": make_questions()}}, "Evaluation questions need `eval_passages`"),
        ({"eval_dataset": make_rows(), "compute_metrics": len}, "`compute_metrics`"),
        ({"eval_dataset": make_rows().remove_columns("query")}, r"`eval_dataset` lacks \['query'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            RetrieverTrainer(model, arguments, processor, train_dataset=make_rows(), **kwargs)


def test_any_encoder_ranks(tmp_path):
    """An encoder, its model with the processor, a path, and an object of another library."""
    model, processor = make_retriever("biencoder", make_tokenizer())
    questions, passages = make_questions(), make_passages()
    expected = rank_passages_together(model, processor, questions, passages, 5, progress=False)

    class Foreign:
        def encode_query(self, texts):
            return Encoder(model, processor).encode_query(texts)

        def encode_document(self, texts):
            return Encoder(model, processor).encode_document(texts)

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for encoder in (Encoder(model, processor), (model, processor), str(tmp_path)):
        assert rank_passages_together(encoder, questions, passages, 5, progress=False).rankings == expected.rankings
    rows = [{"id": row["id"], "text": row["text"]} for row in passages]
    found = rank_passages_together(Foreign(), questions, rows, k=5, progress=False)
    assert found.rankings == rank_passages_together(model, processor, questions, rows, k=5, progress=False).rankings
    mined = mine_hard_negatives(questions, passages, found, exclude_answers=False, progress=False)
    assert len(mined) == len(questions)
