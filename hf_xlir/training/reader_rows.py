"""Rows of a reader's training: what it shall write is drawn anew each epoch."""

import re
from functools import partial

import numpy as np

from ..models.processing_text import is_blank
from .epoch_rows import EpochRows


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
    >>> from hf_xlir.training.reader_rows import answer_rows

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


__all__ = ["answer_rows"]
