"""Training rows that are made when they are read: drawn anew each epoch, without a copy of the data."""

import random
import re
from functools import partial

import numpy as np
import pyarrow.compute as pc
import torch
from transformers import TrainerCallback
from transformers.utils import logging

from ..models.processing_text import is_blank


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
    >>> from hf_xlir.training import dpr_rows

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


def answer_rows(records, seed=0, substituted=0.0):
    r"""
    Rows of a reader's training (https://huggingface.co/papers/2007.01282): a question, its passages, and as `target`
    the record's own or, if it has none, one of its answers, drawn anew each epoch.

    Args:
        records (`datasets.Dataset`):
            What [`load_reader_examples`] returns; with `require_answers=True` it finds bad rows by their lines.
        seed (`int`, *optional*, defaults to 0):
            Of what is drawn.
        substituted (`float`, *optional*, defaults to 0.0):
            Share of the rows whose answer is another one's, in the passages as in the target, drawn anew each epoch
            from those that look like it (a number, a name, a word): what a reader knows by heart does not help it
            then, only what it reads does (https://huggingface.co/papers/2109.05052). Rows of which no passage says an
            answer, letter for letter, stay as they are.

    Returns:
        [`EpochRows`] of `question`, `ctxs` and `target`: the training dataset, and one of the trainer's callbacks.

    Raises:
        ValueError: If a record has neither a target nor answers, or `substituted` is not from 0 to 1.

    Example:
    ```python
    >>> from datasets import Dataset
    >>> from hf_xlir.training import answer_rows

    >>> example = {"id": "7", "question": "Who?", "target": None, "answers": ["Bell", "A. G. Bell"], "ctxs": []}
    >>> rows = answer_rows(Dataset.from_list([example]))
    >>> rows.epoch = 0  # the trainer says it
    >>> rows[0]["target"] in example["answers"]
    True

    ```
    """
    if not 0 <= substituted <= 1:
        raise ValueError(f"`substituted` is a share from 0 to 1, got {substituted}.")
    pairs = zip(records["target"], records["answers"], strict=True)
    empty = np.flatnonzero([target is None and not answers for target, answers in pairs])
    if len(empty):
        raise ValueError(
            f"{len(empty)} of {len(records)} questions have neither `target` nor `answers`, the first of them "
            f"`{records[int(empty[0])]['id']}`. Leave them out, or load with `require_answers=True`."
        )
    substitutes = {}
    if substituted:
        for target, answers in zip(records["target"], records["answers"], strict=True):
            for answer in [target] if target else answers:
                if is_blank(answer):  # which would leave passages without text
                    continue
                substitutes.setdefault(_kind(answer), {})[answer] = None  # each once, in order
    substitutes = {kind: list(answers) for kind, answers in substitutes.items()}
    return EpochRows(records, partial(_answer_row, substituted=substituted, substitutes=substitutes), seed)


def _answer_row(record, generator, substituted, substitutes):
    target, ctxs = record["target"], record["ctxs"]
    if target is None:
        target = generator.choice(record["answers"])
    if substituted and not is_blank(target) and generator.random() < substituted:
        new = generator.choice(substitutes[_kind(target)])
        answers = {each for each in (target, *record["answers"]) if not is_blank(each)}
        replaced = _replace(ctxs, answers, new)
        if replaced != ctxs:
            target, ctxs = new, replaced
    return {"question": record["question"], "ctxs": ctxs, "target": target}


def _kind(answer):
    """What an answer looks like: a number, a name or a word, of one word or several."""
    look = "number" if re.search(r"\d", answer) else "name" if answer[:1].isupper() else "word"
    return look, len(answer.split()) > 1


def _replace(ctxs, answers, new):
    """Passages with a string in the place of all answers; of letters with cases, and of digits, whole words alone."""
    patterns = []
    for answer in sorted(answers, key=len, reverse=True):  # the longest that fits
        whole = answer.lower() != answer.upper() or answer[-1:].isdigit()
        pattern = re.escape(answer)
        patterns.append(rf"(?<!\w){pattern}(?!\w)" if whole else pattern)
    pattern = re.compile("|".join(patterns))
    return [
        {**ctx, **{name: pattern.sub(lambda _: new, ctx[name]) for name in ("title", "text") if ctx[name]}}
        for ctx in ctxs
    ]


__all__ = ["EpochRows", "answer_rows", "dpr_rows", "reader_rows"]
