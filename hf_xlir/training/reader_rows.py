"""Rows of a reader's training: what it shall write is drawn anew each epoch."""

import numpy as np

from .epoch_rows import EpochRows


def answer_rows(records, seed=0):
    r"""
    Rows of a reader's training (https://huggingface.co/papers/2007.01282): a question, its passages, and as `target`
    the record's own or, if it has none, one of its answers, drawn anew each epoch.

    Args:
        records (`datasets.Dataset`):
            What [`load_reader_examples`] returns; with `require_answers=True` it finds bad rows by their lines.
        seed (`int`, *optional*, defaults to 0):
            Of what is drawn.

    Returns:
        [`EpochRows`] of `question`, `ctxs` and `target`: the training dataset, and one of the trainer's callbacks.

    Raises:
        ValueError: If a record has neither a target nor answers.

    Example:
    ```python
    >>> from datasets import Dataset
    >>> from hf_xlir.training.reader_rows import answer_rows

    >>> example = {"id": "7", "question": "Who?", "target": None, "answers": ["Bell", "A. G. Bell"], "ctxs": []}
    >>> rows = answer_rows(Dataset.from_list([example]))
    >>> rows.epoch = 0  # the trainer says it
    >>> rows[0]["target"] in example["answers"]
    True

    ```
    """
    pairs = zip(records["target"], records["answers"], strict=True)
    empty = np.flatnonzero([target is None and not answers for target, answers in pairs])
    if len(empty):
        raise ValueError(
            f"{len(empty)} of {len(records)} questions have neither `target` nor `answers`, the first of them "
            f"`{records[int(empty[0])]['id']}`. Leave them out, or load with `require_answers=True`."
        )
    return EpochRows(records, _answer_row, seed)


def _answer_row(record, generator):
    target = record["target"]
    if target is None:
        target = generator.choice(record["answers"])
    return {"question": record["question"], "ctxs": record["ctxs"], "target": target}


__all__ = ["answer_rows"]
