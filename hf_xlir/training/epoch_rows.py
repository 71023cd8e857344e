"""Training rows that are made when they are read: other negatives each epoch, and no copy of the data."""

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
    Rows made of a dataset's records by a function that may draw at random. What it draws depends on the seed, the
    epoch and the record alone, so that a run which is resumed, or has other processes, sees the same rows.

    It is the training dataset and one of the callbacks of a trainer, which tell it the epoch.

    Args:
        records (`datasets.Dataset`):
            What rows are made of.
        make_row (`Callable`):
            `make_row(record, generator)` returns a row, with a `random.Random` to draw from.
        seed (`int`, *optional*, defaults to 0):
            Of what is drawn.

    Raises:
        ValueError: When read, if no trainer has it as a callback.

    Example:
    ```python
    >>> from hf_xlir import RetrieverTrainer
    >>> from hf_xlir.training.epoch_rows import dpr_rows

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
        """The rows at several places, read at once."""
        if self.epoch is None:
            raise ValueError("These rows depend on the epoch: give them to the trainer's `callbacks`, too.")
        read = self.records.__getitems__(list(places))
        generators = [random.Random(f"{self.seed} {self.epoch} {place}") for place in places]
        return [self.make_row(record, generator) for record, generator in zip(read, generators, strict=True)]

    def on_train_begin(self, args, state, control, **kwargs):
        """Check that the trainer's workers can learn of the epoch."""
        if args.dataloader_persistent_workers and args.dataloader_num_workers:
            raise ValueError("`dataloader_persistent_workers=True` keeps copies of the first epoch: leave it out.")

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Take note of the epoch."""
        self.epoch = int(state.epoch or 0)


def dpr_rows(records, num_negatives=1, seed=0):
    r"""
    Rows of DPR's training (https://huggingface.co/papers/2004.04906): a question, its first positive passage, and hard
    negatives that are drawn anew each epoch; from the other negatives where there are too few. Questions with too few
    of both, or without a positive, are left out, and a log line says how many.

    Args:
        records (`datasets.Dataset`):
            What [`load_natural_questions`] returns for `"dpr"`.
        num_negatives (`int`, *optional*, defaults to 1):
            Negatives a question.
        seed (`int`, *optional*, defaults to 0):
            Of what is drawn.

    Returns:
        [`EpochRows`] of `query`, `positive` and `negatives`.

    Raises:
        ValueError: If no question is left.
    """
    numbers = {name: _list_lengths(records, name) for name in ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")}
    enough = numbers["hard_negative_ctxs"] + numbers["negative_ctxs"] >= num_negatives
    usable = np.flatnonzero(enough & (numbers["positive_ctxs"] > 0))
    if not len(usable):
        raise ValueError(f"No question has a positive and {num_negatives} negative(s): ask for fewer.")
    if len(usable) < len(records):
        logger.warning(
            f"{len(records) - len(usable)} of {len(records)} questions are left out, since they have no positive or "
            f"less than {num_negatives} negative(s)."
        )
        records = records.select(usable)
    return EpochRows(records, partial(_dpr_row, num_negatives), seed)


def reader_rows(records, num_passages=None):
    r"""
    Rows of reader distillation (https://huggingface.co/papers/2012.04584): a question, the passages that a reader had,
    and its scores of them. Questions without a scored passage are left out, and a log line says how many: those that
    were read without passages, and where likelihoods are the scores, those without a known answer.

    Args:
        records (`datasets.Dataset`):
            What [`load_reader_examples`] returns, the reader's score of a passage as its `score`.
        num_passages (`int`, *optional*):
            Passages a question at most, the first ones; all by default.

    Returns:
        [`EpochRows`] of `query`, `documents` and `reader_scores`.

    Raises:
        ValueError: If no question is left.
    """
    usable = np.flatnonzero(_have_scores(records, num_passages))
    if not len(usable):
        raise ValueError(
            f"No passage of the {len(records)} questions has a `score`: write a reader's scores of them into the "
            "examples first."
        )
    if len(usable) < len(records):
        logger.warning(
            f"{len(records) - len(usable)} of {len(records)} questions are left out, since they have no passage with "
            "a score."
        )
        records = records.select(usable)
    return EpochRows(records, partial(_reader_row, num_passages))


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


def _list_lengths(records, name):
    """How many items each record's list has, without making objects of them."""
    return np.concatenate([pc.list_value_length(table[name]).to_numpy() for table in _tables(records, name)])


def _have_scores(records, num_passages):
    """Whether one of each record's first passages has a score."""
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


__all__ = ["EpochRows", "dpr_rows", "reader_rows"]
