"""A run that was interrupted and resumed has the weights of one that was not, whenever it was interrupted."""

import pytest
import torch
from two_processes import make_arguments, make_retriever, make_rows, make_tokenizer

from hf_xlir import RetrieverTrainer


RUN = {
    "objective": "in_batch_nce",
    "optim": "adamw_torch",
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "train_sampling_strategy": "random",
    "per_device_train_batch_size": 2,
    "save_strategy": "steps",
    "save_steps": 1,
}
# arguments, and the updates in an epoch of 10 rows
LOOPS = {
    "an epoch is five batches": ({}, 5),
    "accumulated, the last update of an epoch with one batch": ({"gradient_accumulation_steps": 2}, 3),
    "accumulated, rows dropped": (
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 3, "dataloader_drop_last": True},
        1,
    ),
    "workers": ({"dataloader_num_workers": 1}, 5),
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def run(tokenizer, folder, resume=None, rows=None, **arguments):
    """Train with dropout. Returns the weights and the epoch reached."""
    model, processor = make_retriever("colbert", tokenizer, dropout=0.1)
    rows = make_rows(10) if rows is None else rows
    trainer = RetrieverTrainer(model, make_arguments(folder, **{**RUN, **arguments}), processor, train_dataset=rows)
    trainer.train(resume_from_checkpoint=resume)
    return dict(model.state_dict()), trainer.state.epoch


def assert_equal(weights, expected):
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "loop", [pytest.param(loop, marks=pytest.mark.slow) if loop == "workers" else loop for loop in LOOPS]
)
def test_interrupted_after_each_step(tokenizer, tmp_path, loop):
    arguments, updates = LOOPS[loop]
    arguments = {**arguments, "max_steps": updates + 2}
    whole, epoch = run(tokenizer, tmp_path / "whole", **arguments)
    assert 1 < epoch <= 3
    for step in [updates - 1, updates] if loop == "workers" else range(1, updates + 2):
        resumed, _ = run(tokenizer, tmp_path / "resumed", str(tmp_path / f"whole/checkpoint-{step}"), **arguments)
        assert_equal(resumed, whole)


def test_dropout_and_order_matter_here(tokenizer, tmp_path):
    """The tests above would see it if either was not resumed."""
    whole, _ = run(tokenizer, tmp_path, max_steps=3)
    other, _ = run(tokenizer, tmp_path, max_steps=3, data_seed=1)
    assert any(not torch.equal(whole[name], other[name]) for name in whole)
    model, _ = make_retriever("colbert", tokenizer, dropout=0.1)
    queries = {"input_ids": torch.tensor([[0, 9, 9, 2]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    queries["embedding_mask"] = torch.ones(1, 4, dtype=torch.bool)
    assert not torch.equal(model(**queries).embeddings, model(**queries).embeddings)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_stream_that_is_read_several_times(tokenizer, tmp_path, accumulation):
    """Five batches a reading; with accumulation the gradient of the fifth counts in the first update of the next."""
    rows = make_rows(10).to_iterable_dataset(num_shards=2).shuffle(seed=3, buffer_size=4)
    arguments = {"rows": rows, "max_steps": 7, "gradient_accumulation_steps": accumulation}
    whole, epoch = run(tokenizer, tmp_path, **arguments)
    assert int(epoch) == {1: 1, 2: 3}[accumulation]  # counted from 0
    for step in (2, 5, 6):
        resumed, _ = run(tokenizer, tmp_path / "resumed", str(tmp_path / f"checkpoint-{step}"), **arguments)
        assert_equal(resumed, whole)
