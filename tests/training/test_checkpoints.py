"""Checkpoints are whole or absent, also where the process is killed while it saves."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerCallback
from two_processes import make_arguments, make_retriever, make_rows, make_tokenizer

from hf_xlir import RetrieverTrainer
from hf_xlir.training import checkpoints
from hf_xlir.training.checkpoints import FILE_LIST, UNFINISHED, find_damage, last_whole_checkpoint
from hf_xlir.training.publishing import PublishingMixin


RUN = {
    "objective": "in_batch_nce",
    "optim": "adamw_torch",
    "train_sampling_strategy": "random",
    "per_device_train_batch_size": 4,
    "max_steps": 6,
    "save_strategy": "steps",
    "save_steps": 2,
}
# Where the process dies in its second save: the step to resume from
KILLED = {
    "after the weights": 2,
    "in the optimizer's file": 2,
    "before the list of files": 2,
    "before the renaming": 2,
    "after the renaming": 4,
    "while an old one is deleted": 4,
}


def make_trainer(folder, **arguments):
    model, processor = make_retriever("colbert", make_tokenizer(), dropout=0.1)
    arguments = make_arguments(folder, **{**RUN, **arguments})
    return RetrieverTrainer(model, arguments, processor, train_dataset=make_rows())


class FirstStep(TrainerCallback):
    """Remembers where training began."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.step = state.global_step


def train(folder, resume=None, first_step=0, **arguments):
    trainer, begin = make_trainer(folder, **arguments), FirstStep()
    trainer.add_callback(begin)
    trainer.train(resume_from_checkpoint=resume)
    assert begin.step == first_step
    return trainer


def train_and_die(folder, where):
    """Train, in a process of its own, that kills itself in the second save."""
    torch.set_num_threads(1)
    module, name = {
        "after the weights": (Trainer, "_save_optimizer_and_scheduler"),
        "in the optimizer's file": (torch, "save"),
        "before the list of files": (checkpoints, "_write_file_list"),
        "before the renaming": (checkpoints, "_publish"),
        "after the renaming": (checkpoints, "_publish"),
        "while an old one is deleted": (checkpoints, "rotate_checkpoints"),
    }[where]
    function = getattr(module, name)

    def deadly(*args, **kwargs):
        if where == "while an old one is deleted":
            if not Path(folder, "checkpoint-4").exists():
                return function(*args, **kwargs)
            Path(folder, "checkpoint-2", "model.safetensors").unlink()
        elif not any("checkpoint-4" in str(arg) for arg in args):
            return function(*args, **kwargs)
        elif where == "in the optimizer's file":
            function(*args, **kwargs)
            if not str(args[1]).endswith("optimizer.pt"):
                return None
            os.truncate(args[1], os.path.getsize(args[1]) // 2)
        elif where == "after the renaming":
            function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, deadly)
    train(folder, save_total_limit=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run that nobody interrupts."""
    return train(tmp_path_factory.mktemp("whole")).model.state_dict()


def steps_in(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def assert_equal(weights, expected):
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


FAST_KILL = "before the renaming"  # the whole series takes long


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize(
    "where", [where if where == FAST_KILL else pytest.param(where, marks=pytest.mark.slow) for where in KILLED]
)
def test_killed_while_it_saves(tmp_path, whole, where):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["two_processes"])  # the imports take longer than the training
    process = context.Process(target=train_and_die, args=(tmp_path, where))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / UNFINISHED).exists() == (KILLED[where] == 2)
    assert steps_in(tmp_path) == ["checkpoint-2"] + ["checkpoint-4"] * (KILLED[where] == 4)

    assert last_whole_checkpoint(tmp_path) == str(tmp_path / f"checkpoint-{KILLED[where]}")
    resumed = train(tmp_path, resume=True, first_step=KILLED[where], save_total_limit=1)
    assert_equal(resumed.model.state_dict(), whole)
    assert steps_in(tmp_path) == ["checkpoint-6"] and not (tmp_path / UNFINISHED).exists()


def test_the_last_whole_one_is_taken(tmp_path, whole):
    train(tmp_path)
    assert steps_in(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    (tmp_path / "checkpoint-6" / "rng_state.pth").unlink()
    with open(tmp_path / "checkpoint-4" / "optimizer.pt", "ab") as file:
        file.write(b"\0")
    for name in ("checkpoint-10", "checkpoint-7.partial", "checkpoint-last"):
        shutil.copytree(tmp_path / "checkpoint-2", tmp_path / name)
    (tmp_path / "checkpoint-10" / FILE_LIST).unlink()
    assert find_damage(tmp_path / "checkpoint-6") == "its file rng_state.pth is missing"
    assert find_damage(tmp_path / "checkpoint-4").startswith("its file optimizer.pt has ")
    assert find_damage(tmp_path / "checkpoint-10") == f"it has no valid {FILE_LIST}"
    assert find_damage(tmp_path / "checkpoint-99") == "the folder does not exist"

    assert_equal(train(tmp_path, resume=True, first_step=2).model.state_dict(), whole)
    assert find_damage(tmp_path / "checkpoint-4") is None and find_damage(tmp_path / "checkpoint-6") is None


def test_the_last_one_that_all_machines_have(tmp_path, monkeypatch):
    trainer = train(tmp_path)
    assert trainer.last_whole_checkpoint() == str(tmp_path / "checkpoint-6")
    for of_another, expected in (([2, 4], "checkpoint-4"), ([8], None), ([], None)):
        monkeypatch.setattr(checkpoints, "gather_object", lambda own, other=of_another: [*own, other])
        assert trainer.last_whole_checkpoint() == (expected and str(tmp_path / expected))
    with pytest.raises(ValueError, match="nothing to resume from"):
        trainer.train(resume_from_checkpoint=True)


def test_a_list_names_every_file_and_its_size(tmp_path):
    train(tmp_path, max_steps=2)
    folder = tmp_path / "checkpoint-2"
    listed = json.loads((folder / FILE_LIST).read_text())
    assert listed == {path.name: path.stat().st_size for path in folder.iterdir() if path.name != FILE_LIST}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= set(listed)
    (folder / FILE_LIST).write_text("{")
    assert find_damage(folder) == f"it has no valid {FILE_LIST}"


def test_errors_before_training(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2)
    with pytest.raises(ValueError, match="nothing to resume from: it has no checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    assert last_whole_checkpoint(tmp_path / "absent") is None
    trainer.train(resume_from_checkpoint=False)
    (tmp_path / "checkpoint-2" / "scheduler.pt").unlink()
    with pytest.raises(ValueError, match="`.*checkpoint-2`.*scheduler.pt is missing"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    with pytest.raises(ValueError, match=r"\['checkpoint-2'\] are not complete"):
        trainer.train(resume_from_checkpoint=True)


def test_a_checkpoint_of_another_trainer_by_its_path(tmp_path, whole):
    train(tmp_path / "other")
    (tmp_path / "other" / "checkpoint-4" / FILE_LIST).unlink()
    resumed = train(tmp_path / "new", resume=str(tmp_path / "other" / "checkpoint-4"), first_step=4)
    assert_equal(resumed.model.state_dict(), whole)


def test_a_second_run_replaces_the_checkpoints_of_the_first(tmp_path, whole):
    train(tmp_path, data_seed=7)
    (tmp_path / "checkpoint-6" / "extra").touch()
    train(tmp_path)
    assert not (tmp_path / "checkpoint-6" / "extra").exists()
    resumed = train(tmp_path, resume=str(tmp_path / "checkpoint-4"), first_step=4)
    assert_equal(resumed.model.state_dict(), whole)


def test_uploads_are_of_whole_checkpoints(tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        PublishingMixin, "_push_from_checkpoint", lambda self, folder: pushed.append((folder, find_damage(folder)))
    )
    trainer = make_trainer(tmp_path)
    trainer.args.push_to_hub = True
    trainer.train()
    assert pushed == [(str(tmp_path / f"checkpoint-{step}"), None) for step in (2, 4, 6)]
