"""Hard negatives that are mined again before each epoch: which ones, and that resuming keeps them."""

import json

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from two_process_retrieval import make_passages, make_questions
from two_processes import make_arguments, make_retriever, make_tokenizer

from hf_xlir import RetrieverTrainer
from hf_xlir.evaluation import rank_passages
from hf_xlir.training.checkpoints import last_whole_checkpoint
from hf_xlir.training.hard_negatives import STATE, HardNegativeRefresh, mine_hard_negatives


RUN = {
    "objective": "in_batch_nce",
    "optim": "adamw_torch",
    "learning_rate": 0.02,
    "train_sampling_strategy": "random",
    "per_device_train_batch_size": 4,  # twelve questions: three updates an epoch
    "max_steps": 9,
    "save_strategy": "steps",
    "save_steps": 1,
}
CHOICE = {"num_negatives": 2, "depth": (0, 6), "sampling": "random", "exclude_answers": False}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


class Watch(TrainerCallback):
    """Remembers the weights at the beginning of each epoch."""

    def __init__(self):
        self.weights = {}

    def on_epoch_begin(self, args, state, control, model, **kwargs):
        self.weights[int(state.epoch or 0)] = {name: value.clone() for name, value in model.state_dict().items()}


class Run:
    """A training with refreshed negatives: what each epoch trained on, and how it ended."""

    def __init__(self, tokenizer, folder, resume=None, refresh=None, dropout=0.1, choice=CHOICE, **arguments):
        model, processor = make_retriever("biencoder", tokenizer, dropout=dropout)
        options = dict(arguments.pop("options", {}))
        self.refresh = HardNegativeRefresh(make_questions(), make_passages(), **choice, **options)
        self.watch, self.batches = Watch(), []
        trainer = RetrieverTrainer(
            model,
            make_arguments(folder, **{**RUN, **arguments}),
            processor,
            train_dataset=self.refresh.rows,
            callbacks=[self.watch, self.refresh],
        )
        collate = trainer.data_collator
        trainer.data_collator = lambda rows: (self.batches.append(rows), collate(rows))[1]
        trainer.train(resume_from_checkpoint=resume)
        self.weights, self.processor = dict(trainer.model.state_dict()), processor

    def trained_on(self, epoch):
        """What that epoch's batches held, by the question's id."""
        return {row["id"]: row for batch in self.batches[3 * epoch : 3 * epoch + 3] for row in batch}


def mined_by_hand(tokenizer, weights, seed):
    model, processor = make_retriever("biencoder", tokenizer)
    model.load_state_dict(weights)
    rankings = rank_passages(model, processor, make_questions(), make_passages(), k=6, progress=False)
    mined = mine_hard_negatives(make_questions(), make_passages(), rankings, progress=False, seed=seed, **CHOICE)
    return {row["id"]: row for row in mined}


def assert_equal(weights, expected):
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_each_epoch_has_the_negatives_of_its_first_model(tokenizer, tmp_path):
    run = Run(tokenizer, tmp_path, save_strategy="no")
    assert set(run.watch.weights) == {0, 1, 2}
    for epoch in range(3):
        assert run.trained_on(epoch) == mined_by_hand(tokenizer, run.watch.weights[epoch], seed=epoch)
    assert run.trained_on(0) != run.trained_on(1) != run.trained_on(2)


def test_every_second_epoch_after_first_rows(tokenizer, tmp_path):
    rankings = {row["id"]: [f"p{i}" for i in range(12)] for row in make_questions()}
    first = mine_hard_negatives(make_questions(), make_passages(), rankings, progress=False, **CHOICE)
    options = {"every": 2, "first_rows": first}
    run = Run(tokenizer, tmp_path, options=options, max_steps=15)
    expected = {row["id"]: row for row in first}
    assert run.trained_on(0) == run.trained_on(1) == expected
    second = mined_by_hand(tokenizer, run.watch.weights[2], seed=2)
    assert run.trained_on(2) == run.trained_on(3) == second != expected
    assert run.trained_on(4) == mined_by_hand(tokenizer, run.watch.weights[4], seed=4) != second
    for step in (2, 5, 10):  # among the first rows, and in the second epoch after each mining
        resumed = Run(tokenizer, tmp_path / "resumed", tmp_path / f"checkpoint-{step}", options=options, max_steps=15)
        assert_equal(resumed.weights, run.weights)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_within_and_between_epochs(tokenizer, tmp_path, accumulation):
    arguments = {"gradient_accumulation_steps": accumulation, "max_steps": 9 // accumulation}
    run = Run(tokenizer, tmp_path, **arguments)
    assert len(run.watch.weights) == {1: 3, 2: 2}[accumulation]
    for step in {1: (1, 3, 4, 6, 8), 2: (1, 2, 3)}[accumulation]:
        resumed = Run(tokenizer, tmp_path / "resumed", str(tmp_path / f"checkpoint-{step}"), **arguments)
        assert_equal(resumed.weights, run.weights)


def test_workers_read_the_new_rows(tokenizer, tmp_path):
    alone = Run(tokenizer, tmp_path, save_strategy="no", max_steps=6)
    workers = Run(tokenizer, tmp_path, save_strategy="no", max_steps=6, dataloader_num_workers=1)
    assert_equal(workers.weights, alone.weights)


def test_a_second_training_begins_anew(tokenizer, tmp_path):
    run = Run(tokenizer, tmp_path, save_strategy="no", max_steps=6)
    run.refresh.load_state(None)
    assert run.refresh.epoch is None
    with pytest.raises(ValueError, match="`HardNegativeRefresh` to `callbacks`"):
        run.refresh.rows[0]
    assert len(run.refresh.rows) == 12


def test_errors(tokenizer, tmp_path):
    Run(tokenizer, tmp_path, max_steps=2)
    checkpoint = last_whole_checkpoint(tmp_path)
    state = json.loads((tmp_path / "checkpoint-2" / STATE).read_text())
    assert state["epoch"] == 0 and len(state["negatives"]) == 12 and len(state["negatives"][0]) == 2
    assert state["questions"] == make_questions()["id"][:]

    others = HardNegativeRefresh(make_questions().select(range(9)), make_passages())
    with pytest.raises(ValueError, match="other questions"):
        others.load_state(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / STATE).unlink()
    (tmp_path / "checkpoint-2" / "checkpoint_files.json").unlink()
    with pytest.raises(ValueError, match="without `HardNegativeRefresh`"):
        Run(tokenizer, tmp_path, checkpoint)
    with pytest.raises(ValueError, match="dataloader_persistent_workers"):
        Run(tokenizer, tmp_path, dataloader_persistent_workers=True, dataloader_num_workers=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "`every`.*got 0"),
        ({"first_rows": Dataset.from_dict({"query": ["?"]})}, "`first_rows`.*12 .*got 1"),
        ({"num_negatives": 0}, "`num_negatives`"),
        ({"questions": make_questions().remove_columns("answers")}, r"lacks the columns \['answers'\]"),
    ],
)
def test_errors_about_arguments(arguments, message):
    arguments = {"questions": make_questions(), "passages": make_passages(), **arguments}
    with pytest.raises(ValueError, match=message):
        HardNegativeRefresh(**arguments)


def test_the_trainer_must_train_on_the_rows(tokenizer, tmp_path):
    model, processor = make_retriever("biencoder", tokenizer)
    refresh = HardNegativeRefresh(make_questions(), make_passages(), exclude_answers=False)
    rankings = {row["id"]: [] for row in make_questions()}
    rows = mine_hard_negatives(make_questions(), make_passages(), rankings, exclude_answers=False, progress=False)
    arguments = make_arguments(tmp_path, objective="in_batch_nce")
    trainer = RetrieverTrainer(model, arguments, processor, train_dataset=rows, callbacks=[refresh])
    with pytest.raises(ValueError, match="`train_dataset` must be the `rows`"):
        trainer.train()
