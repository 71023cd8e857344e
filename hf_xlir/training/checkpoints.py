"""Checkpoints that appear whole or not at all, and training that resumes from the last whole one."""

import json
import os
import shutil
from pathlib import Path

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length, rotate_checkpoints
from transformers.utils import logging


logger = logging.get_logger(__name__)

FILE_LIST = "checkpoint_files.json"
UNFINISHED = "_unfinished"  # the Trainer uploads no folder with this first letter
TRAINER_STATE = "trainer_state.json"


class CheckpointedCallback(TrainerCallback):
    """A callback whose state is in the checkpoints of [`RetrieverTrainer`], as a file of its own."""

    def save_state(self, folder):
        """
        Write the state.

        Args:
            folder (`pathlib.Path`):
                The checkpoint that is being written.
        """
        raise NotImplementedError

    def load_state(self, folder):
        """
        Read the state when training begins.

        Args:
            folder (`pathlib.Path`, *optional*):
                The checkpoint to resume from, `None` to begin anew.
        """
        raise NotImplementedError


class WholeCheckpointsMixin:
    r"""
    A [`~transformers.Trainer`] whose checkpoints are whole: each is written to a folder that does not look like one,
    gets a list of its files and their sizes, and is then renamed. Whenever the process dies, what is called a
    checkpoint is one, unless it was being deleted; the list tells that, too.

    With `resume_from_checkpoint=True` training resumes from the last checkpoint that all processes find whole.
    Checkpoints without a list, such as another trainer's, are taken only where their path is given.
    """

    _unfinished = None  # where the checkpoint that is being written stands

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """
        Train; see [`~transformers.Trainer.train`].

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                The checkpoint to resume from, or `True` for the last whole one in `output_dir`.
            args, kwargs:
                Further arguments of [`~transformers.Trainer.train`].

        Raises:
            ValueError: If the checkpoint is not whole, or there is no whole one.
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
                    f"The checkpoint `{resume_from_checkpoint}` is not whole: {damage}. Resume from another, or with "
                    "`resume_from_checkpoint=True` from the last whole one."
                )
        for callback in self._checkpointed_callbacks():
            callback.load_state(None if resume_from_checkpoint is None else Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def last_whole_checkpoint(self):
        """
        The last checkpoint in `output_dir` that all processes find whole: machines may have disks of their own, and
        may not all have finished the last one. Every process must call it.

        Returns:
            `str`, or `None` if there is none.
        """
        folder = self.args.output_dir
        in_common = set.intersection(*map(set, gather_object([_whole_steps(folder)])))
        return os.path.join(folder, f"{PREFIX_CHECKPOINT_DIR}-{max(in_common)}") if in_common else None

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial):
        epochs, batches = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        if checkpoint is not None and self.state.global_step >= max_steps:
            return num_train_epochs, 0  # the training is over; within an epoch the Trainer would take one more step
        if checkpoint is not None and not has_length(self.train_dataset) and not self.args.ignore_data_skip:
            # The Trainer takes a stream for as long as the training, and may have read it several times already: the
            # whole part of the epoch says how often, the rest how many batches of the training's since then
            state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE))
            epochs = int(state.epoch)
            batches = round((state.epoch - epochs) * state.max_steps * self.args.gradient_accumulation_steps)
        return epochs, batches

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._unfinished is None else str(self._unfinished)

    def _push_from_checkpoint(self, checkpoint_folder):
        if self._unfinished is None:  # uploads run in the background, where a folder must not be renamed
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
        if self.is_local_process_zero() and unfinished.is_dir():  # on the disk of another machine
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
        reason = f"{found} are not whole, or of another trainer" if found else "there is no checkpoint"
        return ValueError(
            f"There is nothing to resume from in `{folder}`: {reason}. Give the path of a checkpoint, or begin anew "
            "without `resume_from_checkpoint`."
        )


def last_whole_checkpoint(output_dir):
    r"""
    The last checkpoint of a run that is whole, as one process sees it.

    Args:
        output_dir (`str` or `os.PathLike`):
            The run's folder, which need not exist.

    Returns:
        `str`, or `None` if there is none.

    Example:
    ```python
    >>> from hf_xlir.training.checkpoints import last_whole_checkpoint

    >>> model = AutoModel.from_pretrained(last_whole_checkpoint("out"))  # doctest: +SKIP

    ```
    """
    steps = _whole_steps(output_dir)
    return os.path.join(output_dir, f"{PREFIX_CHECKPOINT_DIR}-{max(steps)}") if steps else None


def find_damage(checkpoint):
    r"""
    What is wrong with a checkpoint, by the list of its files.

    Args:
        checkpoint (`str` or `os.PathLike`):
            Its folder.

    Returns:
        `str`, or `None` if all files are there with their sizes.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return "there is no such folder"
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
    """Steps of the whole checkpoints in a run's folder."""
    steps = []
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if not step.isdecimal():
            continue
        damage = find_damage(path)
        if damage is None:
            steps.append(int(step))
        else:
            logger.warning(f"The checkpoint `{path}` is not taken: {damage}.")
    return steps


def _write_file_list(folder):
    """Bring all files to the disk, then write the list of them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        _flush(file)
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    listed = folder / FILE_LIST
    listed.write_text(json.dumps(sizes, indent=2), encoding="utf-8")
    _flush(listed)


def _publish(unfinished, checkpoint):
    """Give a folder its name, in the place of one that a former run left there."""
    replaced = unfinished.with_name("replaced")
    if checkpoint.exists():
        os.replace(checkpoint, replaced)
    os.replace(unfinished, checkpoint)
    shutil.rmtree(unfinished.parent, ignore_errors=True)


def _flush(file):
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


__all__ = ["CheckpointedCallback", "WholeCheckpointsMixin", "find_damage", "last_whole_checkpoint"]
