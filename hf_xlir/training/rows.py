"""Training rows that are made when they are read: drawn anew each epoch, without a copy of the data."""

import random
from functools import partial

import numpy as np
import pyarrow.compute as pc
import torch
from transformers import TrainerCallback
from transformers.utils import logging


logger = logging.get_logger(__name__)

RECORDS_PER_READ = 1000


class EpochRows(torch.utils.data.Dataset, TrainerCallback):
    r"""
    Rows that a function makes from the records of a dataset, and that may differ between epochs. Random draws depend
    on the seed, the epoch and the record alone: a resumed run, or one with other processes, sees the same rows.

    It is both the training dataset and a callback of the trainer, which tells it the epoch.

    Args:
        records (`datasets.Dataset`):
            The records.
        make_row (`Callable`):
            `make_row(record, generator)` returns a row. `generator` is a `random.Random` to draw from.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.

    Raises:
        ValueError: When a row is read, if no trainer has it as a callback.

    Example:
    ```python
    >>> from hf_xlir.training import RetrieverTrainer, dpr_rows

    >>> rows = dpr_rows(load_natural_questions("dpr", "train"))  # doctest: +SKIP
    >>> RetrieverTrainer(model, args, processor, train_dataset=rows, callbacks=[rows])  # doctest: +SKIP

    ```
    """

    def __init__(self, records, make_row, seed=0):
        self.records, self.make_row, self.seed = records, make_row, seed
        self.epoch = None

    def __len__(self):
        return len(self.records)

    def __getitem__(self, place):
        return self.__getitems__([place])[0]

    def __getitems__(self, places):
        """The rows at several positions, read at once."""
        if self.epoch is None:
            raise ValueError("These rows depend on the epoch: pass them to the trainer's `callbacks` as well.")
        read = self.records.__getitems__(list(places))
        generators = [random.Random(f"{self.seed} {self.epoch} {place}") for place in places]
        return [self.make_row(record, generator) for record, generator in zip(read, generators, strict=True)]

    def on_train_begin(self, args, state, control, **kwargs):
        """Refuse workers that would never learn of a new epoch."""
        if args.dataloader_persistent_workers and args.dataloader_num_workers:
            raise ValueError("`dataloader_persistent_workers=True` keeps copies of the first epoch: leave it out.")

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Note the epoch."""
        self.epoch = int(state.epoch or 0)


def dpr_rows(records, num_negatives=1, seed=0):
    r"""
    Rows of DPR's training (https://huggingface.co/papers/2004.04906): a question, its first positive passage, and
    negatives drawn anew each epoch. Hard negatives are drawn first, then the other negatives. Questions without a
    positive, or with too few negatives, are left out. A log line states their number.

    Args:
        records (`datasets.Dataset`):
            Records of `load_natural_questions("dpr", ...)`.
        num_negatives (`int`, *optional*, defaults to 1):
            Number of negatives per question.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.

    Returns:
        [`EpochRows`] with `query`, `positive` and `negatives`.

    Raises:
        ValueError: If no question is left.
    """
    numbers = {name: _list_lengths(records, name) for name in ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")}
    enough = numbers["hard_negative_ctxs"] + numbers["negative_ctxs"] >= num_negatives
    records = _usable(
        records, enough & (numbers["positive_ctxs"] > 0), f"a positive and at least {num_negatives} negative(s)"
    )
    return EpochRows(records, partial(_dpr_row, num_negatives), seed)


def reader_rows(records, num_passages=None):
    r"""
    Rows of reader distillation (https://huggingface.co/papers/2012.04584): a question, the passages that a reader had,
    and the reader's scores. Questions without a scored passage are left out, and a log line states their number. These
    are questions that were read without passages and, if the scores are likelihoods, those without a known answer.

    Args:
        records (`datasets.Dataset`):
            Records of [`load_reader_examples`] with the reader's score in `score` of each passage.
        num_passages (`int`, *optional*):
            Maximum number of passages per question; the first ones are kept. `None` keeps all.

    Returns:
        [`EpochRows`] with `query`, `documents` and `reader_scores`.

    Raises:
        ValueError: If no question is left.
    """
    records = _usable(records, _have_scores(records, num_passages), "a passage with a `score`")
    return EpochRows(records, partial(_reader_row, num_passages))


def answer_rows(records, seed=0, augment=None):
    r"""
    Rows of a reader's training (https://huggingface.co/papers/2007.01282): a question, its passages, and a `target`,
    which is the record's own or one of its answers, drawn anew each epoch.

    Args:
        records (`datasets.Dataset`):
            Records of [`load_reader_examples`]. With `require_answers=True` it reports bad rows by their lines.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.
        augment (`Callable`, *optional*):
            `augment(record, target, generator)` returns the target and the passages to train on, such as changed
            copies. `generator` is a `random.Random` to draw from.

    Returns:
        [`EpochRows`] with `question`, `ctxs` and `target`: the training dataset, and a callback of the trainer.

    Raises:
        ValueError: If a record has neither a target nor answers.

    Example:
    ```python
    >>> from datasets import Dataset
    >>> from hf_xlir.training import answer_rows

    >>> example = {"id": "7", "question": "Who?", "target": None, "answers": ["Bell", "A. G. Bell"], "ctxs": []}
    >>> rows = answer_rows(Dataset.from_list([example]))
    >>> rows.epoch = 0  # the trainer sets it
    >>> rows[0]["target"] in example["answers"]
    True

    ```
    """
    pairs = zip(records["target"], records["answers"], strict=True)
    empty = np.flatnonzero([target is None and not answers for target, answers in pairs])
    if len(empty):
        raise ValueError(
            f"{len(empty)} of {len(records)} questions have neither `target` nor `answers`, such as "
            f"`{records[int(empty[0])]['id']}`. Leave them out, or load with `require_answers=True`."
        )
    return EpochRows(records, partial(_answer_row, augment), seed)


def _dpr_row(num_negatives, record, generator):
    hard, other = record["hard_negative_ctxs"], record["negative_ctxs"]
    negatives = generator.sample(hard, min(num_negatives, len(hard)))
    negatives += generator.sample(other, num_negatives - len(negatives))
    return {"query": record["question"], "positive": record["positive_ctxs"][0], "negatives": negatives}


def _reader_row(num_passages, record, generator):
    passages = record["ctxs"][:num_passages]
    return {
        "query": record["question"],
        "documents": passages,
        "reader_scores": [passage["score"] for passage in passages],
    }


def _answer_row(augment, record, generator):
    target, ctxs = record["target"], record["ctxs"]
    if target is None:
        target = generator.choice(record["answers"])
    if augment is not None:
        target, ctxs = augment(record, target, generator)
    return {"question": record["question"], "ctxs": ctxs, "target": target}


def _usable(records, is_usable, needed):
    """The usable records. A log line states the number of the others; it is an error if none is left."""
    usable = np.flatnonzero(is_usable)
    if not len(usable):
        raise ValueError(f"None of the {len(records)} questions has {needed}.")
    if len(usable) == len(records):
        return records
    logger.warning(f"{len(records) - len(usable)} of {len(records)} questions without {needed} are left out.")
    return records.select(usable)


def _list_lengths(records, name):
    """The length of each record's list, without making Python objects of it."""
    return np.concatenate([pc.list_value_length(table[name]).to_numpy() for table in _tables(records, name)])


def _have_scores(records, num_passages):
    """Whether any of each record's first passages has a score."""
    found = []
    for table in _tables(records, "ctxs"):
        passages = table["ctxs"].combine_chunks()
        lengths = pc.list_value_length(passages).to_numpy()
        of_record = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(of_record)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        counts = pc.struct_field(passages.flatten(), "score").is_valid().to_numpy(zero_copy_only=False)
        if num_passages is not None:
            counts &= place < num_passages
        found.append(np.bincount(of_record[counts], minlength=len(lengths)) > 0)
    return np.concatenate(found)


def _tables(records, name):
    return records.select_columns(name).with_format("arrow").iter(RECORDS_PER_READ)


__all__ = ["EpochRows", "answer_rows", "dpr_rows", "reader_rows"]
