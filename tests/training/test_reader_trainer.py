"""A reader in training: it learns, is evaluated by what it writes, keeps its best checkpoint and goes on."""

import json

import pytest
import torch
from datasets import Dataset
from fid_tiny import make_backbone, make_reader, make_tokenizer
from safetensors.torch import load_file
from transformers import TrainingArguments

from hf_xlir import FiDT5Processor
from hf_xlir.data import READER_EXAMPLE_FEATURES
from hf_xlir.evaluation import read_answers
from hf_xlir.models.auto import load_reader
from hf_xlir.training.reader_trainer import ReaderTrainer, ReaderTrainingArguments
from hf_xlir.training.rows import answer_rows
from support.runs import train_and_save


WORDS = ("er", "rain", "Seoul", "capital")


def make_examples(number=12):
    rows = []
    for place in range(number):
        word, lang = WORDS[place % 4], ["ko", "fi"][place % 2]
        ctxs = [{"id": str(rank), "title": "", "text": text, "score": None} for rank, text in enumerate((word, "er"))]
        answers = [word, f"{word}ed"] if place % 3 else [word]
        rows.append(
            {"id": str(place), "question": "Who?", "target": None, "answers": answers, "lang": lang, "ctxs": ctxs}
        )
    rows[1] |= {"target": "rain", "answers": []}
    rows[5]["ctxs"] = []
    return Dataset.from_list(rows, features=READER_EXAMPLE_FEATURES)


EXAMPLES = make_examples()


def make_parts(**fields):
    tokenizer = make_tokenizer()
    model = make_reader(make_backbone(seed=2, vocab_size=len(tokenizer), num_layers=1, num_decoder_layers=1, **fields))
    return model, FiDT5Processor(tokenizer, answer_maxlength=6, n_context=2)


def make_trainer(folder, dropout=0.0, examples=EXAMPLES, **arguments):
    model, processor = make_parts(dropout_rate=dropout)
    own = {"max_steps": 4, "per_device_train_batch_size": 4, "report_to": "none", "use_cpu": True, "logging_steps": 1}
    own |= {"disable_tqdm": True, "learning_rate": 1e-2, "per_device_eval_batch_size": 5, "save_strategy": "no"}
    rows = answer_rows(examples)
    args = ReaderTrainingArguments(str(folder), **{**own, **arguments})
    return ReaderTrainer(model, args, processor, train_dataset=rows, eval_dataset=examples, callbacks=[rows])


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_it_learns_to_write_answers(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=60, weight_decay=0.0)
    assert trainer.evaluate()["eval_exact_match"] == 0
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[-1] < 0.5 * losses[0]
    metrics = trainer.evaluate()
    assert metrics["eval_exact_match"] >= 0.4 and "eval_loss" not in metrics
    assert {"eval_ko_exact_match", "eval_fi_f1", "eval_macro_f1"} <= set(metrics)


def test_metrics_are_those_of_what_it_writes(tmp_path):
    trainer = make_trainer(tmp_path)
    answers = read_answers(trainer.model, trainer.processing_class, EXAMPLES.to_list())
    # From now on the right answers are those that it gives to all questions but the first three
    changed = [
        {**row, "answers": [answer.text if place > 2 else "rain"]}
        for place, (row, answer) in enumerate(zip(EXAMPLES, answers, strict=True))
    ]
    changed = Dataset.from_list(changed, features=READER_EXAMPLE_FEATURES)
    metrics = trainer.evaluate(changed)
    assert metrics["eval_exact_match"] == 0.75
    assert (metrics["eval_ko_exact_match"], metrics["eval_fi_exact_match"]) == (
        pytest.approx(4 / 6),
        pytest.approx(5 / 6),
    )
    assert trainer.evaluate(changed, max_length=3)["eval_exact_match"] == 0  # two tokens
    assert trainer.evaluate({"one": changed, "two": EXAMPLES})["eval_one_exact_match"] == 0.75


def test_evaluation_leaves_no_question_out(tmp_path):
    """Twelve in batches of five: the last two count, too, and training still drops them."""
    expected = make_trainer(tmp_path).evaluate()
    trainer = make_trainer(tmp_path, dataloader_drop_last=True)
    found = trainer.evaluate()
    for name in ("eval_exact_match", "eval_f1", "eval_ko_f1"):
        assert found[name] == expected[name]
    assert trainer.args.dataloader_drop_last and len(trainer.get_eval_dataloader()) == 3
    trainer = make_trainer(tmp_path, dataloader_drop_last=True, per_device_train_batch_size=5)
    assert len(trainer.get_train_dataloader()) == 2


def test_the_loss_alone(tmp_path):
    trainer = make_trainer(tmp_path, predict_with_generate=False, per_device_eval_batch_size=12)
    metrics = trainer.evaluate()
    assert not any("exact_match" in name for name in metrics)
    batch = trainer.data_collator([EXAMPLES[place] for place in range(12)])
    with torch.no_grad():
        assert metrics["eval_loss"] == pytest.approx(trainer.model(**batch).loss.item(), rel=1e-5)


def test_a_step_averages_its_batches(tmp_path):
    """The first update of two accumulated batches has the mean of their gradients."""
    trainer = make_trainer(tmp_path, max_steps=1, gradient_accumulation_steps=3, optim="sgd", max_grad_norm=0.0)
    model, _ = make_parts(dropout_rate=0.0)
    batches = []
    collator, trainer.data_collator = trainer.data_collator, lambda rows: batches.append(collator(rows)) or batches[-1]
    trainer.train()
    assert len(batches) == 3
    for batch in batches:
        (model(**batch).loss / 3).backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            updated = trainer.model.get_parameter(name)
            torch.testing.assert_close(updated, parameter - 1e-2 * parameter.grad, rtol=0, atol=1e-6)


def test_gradient_checkpointing_changes_no_weight(tmp_path):
    weights = []
    for given in ({}, {"gradient_checkpointing": True}):
        trainer = make_trainer(tmp_path, **given)
        trainer.train()
        name = "is_activation_checkpointing"  # before transformers 5.23: is_gradient_checkpointing
        name = name if hasattr(type(trainer.model), name) else "is_gradient_checkpointing"
        assert getattr(trainer.model, name) == bool(given)
        weights.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
    for others in weights[1:]:
        for name, value in weights[0].items():
            torch.testing.assert_close(others[name], value, rtol=0, atol=2e-5)


def test_the_best_checkpoint_is_kept_and_a_run_goes_on(tmp_path):
    """Best is what `evaluate` says is best: here the second of four, whose weights are saved in the end."""
    best = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    best |= {"load_best_model_at_end": True, "save_total_limit": 2}

    def rigged(folder, **arguments):
        trainer = make_trainer(folder, dropout=0.1, **best, **arguments)
        evaluation_loop = trainer.evaluation_loop

        def loop(*args, **kwargs):
            output = evaluation_loop(*args, **kwargs)
            found = 0.9 if trainer.state.global_step == 2 else 0.1
            return output._replace(metrics={**output.metrics, "eval_exact_match": found})

        trainer.evaluation_loop = loop
        return trainer

    whole = rigged(tmp_path / "whole")
    assert (whole.args.metric_for_best_model, whole.args.greater_is_better) == ("exact_match", True)
    train_and_save(whole)
    assert whole.state.best_metric == 0.9 and whole.state.best_global_step == 2
    names = {path.name for path in (tmp_path / "whole").glob("checkpoint-*")}
    assert names == {"checkpoint-2", "checkpoint-4"}
    saved = load_file(tmp_path / "whole" / "model.safetensors")
    of_best = load_file(tmp_path / "whole" / "checkpoint-2" / "model.safetensors")
    assert saved.keys() == of_best.keys() and all(torch.equal(saved[name], of_best[name]) for name in saved)
    model, processor = load_reader(tmp_path / "whole")
    assert torch.equal(model.shared.weight, saved["shared.weight"])
    assert (processor.answer_maxlength, processor.n_context) == (6, 2)

    again = rigged(tmp_path / "again")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert logged(again, "loss")[-2:] == logged(whole, "loss")[-2:]  # dropout, order and drawn answers as before
    generation = json.loads((tmp_path / "whole" / "generation_config.json").read_text())
    assert "max_length" not in generation and "num_beams" not in generation


def test_evaluation_does_not_change_training(tmp_path):
    losses = []
    for given in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        trainer = make_trainer(tmp_path, dropout=0.1, **given)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_defaults_and_what_cannot_be(tmp_path):
    args = ReaderTrainingArguments(str(tmp_path), use_cpu=True)
    assert args.predict_with_generate and not args.remove_unused_columns
    assert args.ddp_find_unused_parameters is False and args.metric_for_best_model is None
    model, processor = make_parts()
    ReaderTrainer(model, args, processor)
    assert args.generation_max_length == 7
    with pytest.raises(ValueError, match="`args` must be `ReaderTrainingArguments`, got TrainingArguments"):
        ReaderTrainer(model, TrainingArguments(str(tmp_path), use_cpu=True), processor)
    with pytest.raises(ValueError, match="`processing_class` must be a `FiDT5Processor`, got T5Tokenizer"):
        ReaderTrainer(model, args, processor.tokenizer)
    with pytest.raises(ValueError, match="'t5'"):
        ReaderTrainer(make_backbone(), args, processor)
