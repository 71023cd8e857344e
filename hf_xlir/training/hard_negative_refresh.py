"""Hard negatives that are mined again with the model in training, epoch by epoch."""

import json
from dataclasses import replace

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from transformers.utils import logging

from .checkpoints import CheckpointedCallback
from .hard_negatives import check_questions_and_passages, choose_hard_negatives, hard_negative_rows
from .negative_choice import NegativeChoice
from .shared_ranking import rank_passages_together


logger = logging.get_logger(__name__)

STATE = "hard_negatives.json"


class HardNegativeRefresh(CheckpointedCallback):
    r"""
    Mines the hard negatives of [`RetrieverTrainer`] anew before an epoch, with the model as it is then
    (https://huggingface.co/papers/2007.00808). All processes share the work, and train on the same rows.

    The trainer takes `rows` as its training dataset, which stays one object while what it holds changes. Checkpoints
    have the negatives in use, so that a run which is resumed within an epoch goes on with them.

    Args:
        questions (`datasets.Dataset`):
            As for [`mine_hard_negatives`]: each one is a row of every epoch.
        passages (`datasets.Dataset`):
            As for [`mine_hard_negatives`]; all of them are encoded each time.
        every (`int`, *optional*, defaults to 1):
            Epochs between two refreshes.
        first_rows (`datasets.Dataset`, *optional*):
            Rows for the epochs before the second mining, such as those mined with BM25, as many as questions. By
            default the first epoch is mined with the model, too.
        batch_size (`int`, *optional*, defaults to 64):
            How many texts to encode at once.
        choice:
            Arguments of [`mine_hard_negatives`] that say which passages are negatives. `depth` ends where the
            ranking does; what is random differs from epoch to epoch.

    Raises:
        ValueError: As [`mine_hard_negatives`] raises, or if `first_rows` are not as many as the questions.

    Example:
    ```python
    >>> from hf_xlir import RetrieverTrainer
    >>> from hf_xlir.training.hard_negative_refresh import HardNegativeRefresh

    >>> negatives = HardNegativeRefresh(questions, passages, depth=(0, 50))  # doctest: +SKIP
    >>> trainer = RetrieverTrainer(  # doctest: +SKIP
    ...     model, args, processor, train_dataset=negatives.rows, callbacks=[negatives]
    ... )

    ```
    """

    def __init__(self, questions, passages, *, every=1, first_rows=None, batch_size=64, **choice):
        self.choice = NegativeChoice(**choice)
        check_questions_and_passages(questions, passages, self.choice.exclude_answers)
        if every < 1:
            raise ValueError(f"`every` must be a number of epochs from 1, got {every}.")
        if first_rows is not None and len(first_rows) != len(questions):
            raise ValueError(
                f"`first_rows` must be as many as `questions`, {len(questions)}, since an epoch has a fixed length; "
                f"got {len(first_rows)}."
            )
        self.questions, self.passages = questions, passages
        self.every, self.first_rows, self.batch_size = every, first_rows, batch_size
        self.rows = MinedRows(len(questions))
        self.load_state(None)

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Check that the trainer trains on the rows."""
        if train_dataloader.dataset is not self.rows:
            raise ValueError("The trainer's `train_dataset` must be the `rows` of its `HardNegativeRefresh`.")
        if args.dataloader_persistent_workers and args.dataloader_num_workers:
            raise ValueError("`dataloader_persistent_workers=True` keeps copies of old rows: leave it out.")

    def on_epoch_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        """Mine, if the epoch wants other negatives than there are."""
        epoch = int(state.epoch or 0)
        epoch -= epoch % self.every
        if epoch == self.epoch:
            return
        rankings = rank_passages_together(
            model,
            processing_class,
            self.questions,
            self.passages,
            self.choice.depth[1],
            share=AcceleratorState().distributed_type is not DistributedType.FSDP,
            batch_size=self.batch_size,
            progress=args.process_index == 0 and not args.disable_tqdm,
        )
        choice = replace(self.choice, seed=self.choice.seed + epoch)
        self._use(epoch, choose_hard_negatives(self.questions, self.passages, rankings, choice, progress=False))
        logger.info(f"Mined the hard negatives of {len(self.questions)} questions for epoch {epoch}.")

    def save_state(self, folder):
        """Write the negatives in use."""
        state = {"epoch": self.epoch, "questions": self.questions["id"][:], "negatives": self.negatives}
        (folder / STATE).write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")

    def load_state(self, folder):
        """Take the negatives of a checkpoint, or begin anew."""
        if folder is None:
            self._use(None if self.first_rows is None else 0, None)
            return
        if not (folder / STATE).exists():
            raise ValueError(f"The checkpoint `{folder}` is of a training without `HardNegativeRefresh`.")
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if state["questions"] != self.questions["id"][:]:
            raise ValueError(f"The checkpoint `{folder}` has the hard negatives of other questions.")
        self._use(state["epoch"], state["negatives"])

    def _use(self, epoch, negatives):
        """Train on these negatives, mined for that epoch; `None` stands for the first rows."""
        self.epoch, self.negatives = epoch, negatives
        self.rows.current = self.first_rows
        if negatives is not None:
            self.rows.current = hard_negative_rows(self.questions, self.passages, negatives)


class MinedRows(torch.utils.data.Dataset):
    """The rows of the present epoch, as many in each."""

    def __init__(self, number):
        self.number = number
        self.current = None

    def __len__(self):
        return self.number

    def __getitem__(self, place):
        return self._mined()[place]

    def __getitems__(self, places):
        """The rows at several places, read at once."""
        return self._mined().__getitems__(places)

    def _mined(self):
        if self.current is None:
            raise ValueError("Hard negatives are mined when the epoch begins: add the `HardNegativeRefresh` callback.")
        return self.current


__all__ = ["HardNegativeRefresh"]
