"""Checkpoints that are complete or absent, and training that resumes from the last complete one."""

import json
import os
import shutil
from pathlib import Path

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length, rotate_checkpoints
from transformers.utils import logging

from ..utils.files import flush_to_disk, write_text


logger = logging.get_logger(__name__)

FILE_LIST = "checkpoint_files.json"
UNFINISHED = "_unfinished"  # the Trainer uploads no folder with this first letter
TRAINER_STATE = "trainer_state.json"


class CheckpointedCallback(TrainerCallback):
    """A callback that saves its state in the checkpoints of [`WholeCheckpointsMixin`]."""

    def save_state(self, folder):
        """Write the state into a checkpoint folder that is being written."""
        raise NotImplementedError

    def load_state(self, folder):
        """Read the state of a checkpoint folder when training begins; `None` to begin anew."""
        raise NotImplementedError


class WholeCheckpointsMixin:
    r"""
    A [`~transformers.Trainer`] mixin that makes checkpoints complete or absent. Each is written to a draft folder with
    a list of its files and their sizes, which is then renamed. If the process dies, no draft is taken for a
    checkpoint, and the list shows if one was being deleted.

    With `resume_from_checkpoint=True` training resumes from the last checkpoint that is complete on all processes.
    Checkpoints without a list, such as those of another trainer, are only used if their path is given.
    """

    _unfinished = None  # draft folder of the checkpoint that is being written

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """
        Train; see [`~transformers.Trainer.train`].

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                The checkpoint to resume from, or `True` for the last complete one in `output_dir`.
            args, kwargs:
                Further arguments of [`~transformers.Trainer.train`].

        Raises:
            ValueError: If the checkpoint is not complete, or there is none.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self.last_whole_checkpoint()
            if resume_from_checkpoint is None:
                raise self._nothing_to_resume_from()
        resume_from_checkpoint = resume_from_checkpoint or None
        if resume_from_checkpoint is not None:
            damage = find_damage(resume_from_checkpoint)
            if damage is not None and Path(resume_from_checkpoint, FILE_LIST).exists():
                raise ValueError(
                    f"The checkpoint `{resume_from_checkpoint}` is not complete: {damage}. Resume from another, or "
                    "with `resume_from_checkpoint=True` from the last complete one."
                )
        for callback in self._checkpointed_callbacks():
            callback.load_state(None if resume_from_checkpoint is None else Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def last_whole_checkpoint(self):
        """
        The last checkpoint in `output_dir` that is complete on all processes, or `None`. All processes must call it:
        machines may have their own disks, and not all may have completed the last one.
        """
        folder = self.args.output_dir
        in_common = set.intersection(*map(set, gather_object([_whole_steps(folder)])))
        return os.path.join(folder, f"{PREFIX_CHECKPOINT_DIR}-{max(in_common)}") if in_common else None

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial):
        epochs, batches = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        if checkpoint is not None and self.state.global_step >= max_steps:
            return num_train_epochs, 0  # training is over; within an epoch the Trainer would take one more step
        if checkpoint is not None and not has_length(self.train_dataset) and not self.args.ignore_data_skip:
            # The Trainer assumes that an epoch of a stream is as long as the training. The integer part of the epoch
            # says how often the stream was read, the rest how many batches of the training came since then
            state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE))
            epochs = int(state.epoch)
            batches = round((state.epoch - epochs) * state.max_steps * self.args.gradient_accumulation_steps)
        return epochs, batches

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._unfinished is None else str(self._unfinished)

    def _push_from_checkpoint(self, checkpoint_folder):
        if self._unfinished is None:  # uploads run in the background, while the draft is renamed
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model, trial):
        run_dir = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        unfinished, checkpoint = run_dir / UNFINISHED / name, run_dir / name
        if self.args.should_save:
            shutil.rmtree(unfinished.parent, ignore_errors=True)  # of a run that was killed
        self.accelerator.wait_for_everyone()
        self._unfinished = unfinished.parent
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._unfinished = None
        best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if best == checkpoint or best.is_dir():
            self.state.best_model_checkpoint = str(best)

        self.accelerator.wait_for_everyone()  # each process has written its random state
        if self.args.should_save:
            self.state.save_to_json(str(unfinished / TRAINER_STATE))
            for callback in self._checkpointed_callbacks():
                callback.save_state(unfinished)
            _write_file_list(unfinished)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            _publish(unfinished, checkpoint)
        self.accelerator.wait_for_everyone()
        if self.is_local_process_zero() and unfinished.is_dir():  # another machine's own disk
            _publish(unfinished, checkpoint)
        self.accelerator.wait_for_everyone()

        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(run_dir), self.args.save_total_limit, best, use_mtime=True)

    def _checkpointed_callbacks(self):
        return [each for each in self.callback_handler.callbacks if isinstance(each, CheckpointedCallback)]

    def _nothing_to_resume_from(self):
        folder = self.args.output_dir
        found = sorted(path.name for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
        reason = f"{found} are not complete, or from another trainer" if found else "it has no checkpoint"
        return ValueError(
            f"`{folder}` has nothing to resume from: {reason}. Give the path of a checkpoint, or leave "
            "`resume_from_checkpoint` out to begin anew."
        )


def last_whole_checkpoint(output_dir):
    r"""
    The last complete checkpoint in an output folder.

    Args:
        output_dir (`str` or `os.PathLike`):
            The `output_dir` of the training, which need not exist.

    Returns:
        `str`, or `None` if there is none.

    Example:
    ```python
    >>> from hf_xlir.training import last_whole_checkpoint

    >>> model = AutoModel.from_pretrained(last_whole_checkpoint("out"))  # doctest: +SKIP

    ```
    """
    steps = _whole_steps(output_dir)
    return os.path.join(output_dir, f"{PREFIX_CHECKPOINT_DIR}-{max(steps)}") if steps else None


def find_damage(checkpoint):
    """What is wrong with a checkpoint by its list of files, or `None`."""
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return "the folder does not exist"
    try:
        sizes = json.loads((checkpoint / FILE_LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"it has no valid {FILE_LIST}"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"its file {name} is missing"
        if file.stat().st_size != size:
            return f"its file {name} has {file.stat().st_size} bytes instead of {size}"
    return None


def _whole_steps(output_dir):
    """The steps of the complete checkpoints in a folder."""
    steps = []
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if not step.isdecimal():
            continue
        damage = find_damage(path)
        if damage is None:
            steps.append(int(step))
        else:
            logger.warning(f"The checkpoint `{path}` is skipped: {damage}.")
    return steps


def _write_file_list(folder):
    """Flush all files to the disk, then write the list of them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        flush_to_disk(file)
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    write_text(folder / FILE_LIST, json.dumps(sizes, indent=2), flush=True)


def _publish(unfinished, checkpoint):
    """Rename a draft to its checkpoint, replacing one of an earlier run."""
    replaced = unfinished.with_name("replaced")
    if checkpoint.exists():
        os.replace(checkpoint, replaced)
    os.replace(unfinished, checkpoint)
    shutil.rmtree(unfinished.parent, ignore_errors=True)


__all__ = ["CheckpointedCallback", "WholeCheckpointsMixin", "find_damage", "last_whole_checkpoint"]
