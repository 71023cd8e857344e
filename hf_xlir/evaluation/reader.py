"""What a reader answers, and how good its answers are."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from ..data.collators import target_of
from ..models.fid_answers import ANSWER_LENGTH, answer_limit, generate_answers, scores_read
from .answer_likelihood import answer_log_likelihoods
from .answers import exact_match, f1_score


SCORES = ("attention", "likelihood")


class ReadAnswer(NamedTuple):
    """
    What a reader made of a question.

    Attributes:
        text (`str`):
            Its answer.
        scores (`list[float]`, *optional*):
            What each passage that it read did for the answer.
    """

    text: str
    scores: list[float] | None


@torch.no_grad()
def read_answers(model, processor, examples, batch_size=8, scores=None, **generation):
    r"""
    Let a reader answer questions from their passages. Questions whose passages are alike in number and length share a
    batch; what is read and written does not depend on it.

    Args:
        model ([`FiDT5ForConditionalGeneration`]):
            The reader. It is put into evaluation mode.
        processor ([`FiDT5Processor`]):
            Its processor, which says how many passages and token ids are read.
        examples (`list[dict]`):
            With `question` and `ctxs`, a list of passages, best first. A question without is read alone.
        batch_size (`int`, *optional*, defaults to 8):
            Questions that are read at a time.
        scores (`"attention"` or `"likelihood"`, *optional*):
            Which scores of passages to return, too: how much the reader looked at each one
            ([`FiDT5ForConditionalGeneration.reader_scores`]), or how likely each one, read alone, makes the example's
            `target`, or else the first of its `answers` ([`~hf_xlir.evaluation.answer_likelihood.\
answer_log_likelihoods`]); an example that has neither gets no scores then.
        generation:
            Arguments of `generate`. By default the answer is the greedy one, of the processor's `answer_maxlength`
            token ids at most, or of 50 if that is `None`.

    Returns:
        `list[ReadAnswer]`: In the order of `examples`. Of passages beyond `n_context` there are no scores.

    Raises:
        ValueError: If a score is NaN or infinite.

    Example:
    ```python
    >>> from hf_xlir.evaluation.reader import read_answers

    >>> example = {"question": "Who?", "ctxs": [{"title": "Bell", "text": "He did."}]}  # doctest: +SKIP
    >>> read_answers(model, processor, [example])[0].text  # doctest: +SKIP
    'Bell'

    ```
    """
    check_scores(scores)
    model.eval()
    if "max_length" not in generation:
        generation.setdefault("max_new_tokens", answer_limit(processor))
    generation = {"do_sample": False, "num_beams": 1, **generation, "output_reader_scores": scores == "attention"}
    order = sorted(range(len(examples)), key=lambda place: _size(examples[place], processor.n_context))
    answers = [None] * len(examples)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        questions = [examples[place]["question"] for place in places]
        passages = [examples[place]["ctxs"] for place in places]
        _, texts, found = generate_answers(model, processor, questions, passages, **generation)
        if scores == "likelihood":
            targets = [target_of(examples[place]) for place in places]
            found = _likelihoods(model, processor, questions, passages, targets)
        for place, text, of_one in zip(places, texts, found or [None] * len(places), strict=True):
            if of_one is not None and not all(map(math.isfinite, of_one)):
                raise ValueError(
                    f"The reader's scores of passages for {examples[place]['question']!r:.80} are not all finite: its "
                    "weights are damaged, or overflow the type that it was loaded in; try float32."
                )
            answers[place] = ReadAnswer(text, of_one)
    return answers


def check_scores(scores):
    """Raise a `ValueError` if there are no such scores."""
    if scores is not None and scores not in SCORES:
        raise ValueError(f"`scores` must be one of {SCORES} or `None`, got {scores!r}.")


def _likelihoods(model, processor, questions, passages, targets):
    """The passages' scores of each question; `None` where no answer is known."""
    known = [place for place, target in enumerate(targets) if target is not None]
    found = [None] * len(targets)
    if known:
        questions, passages, targets = ([each[place] for place in known] for each in (questions, passages, targets))
        inputs = processor(questions, passages, targets).to(model.device)
        scores = answer_log_likelihoods(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        for place, of_one in zip(known, scores_read(scores.tolist(), passages, processor), strict=True):
            found[place] = of_one
    return found


def known_answers(example):
    """
    The right answers of a reader's example: its `answers`, or else its `target`.

    Args:
        example (`dict`):
            As [`load_reader_examples`] returns it.

    Returns:
        `list[str]`: Empty where none is known.
    """
    return example["answers"] or [each for each in [example["target"]] if each is not None]


def judge_answer(text, answers):
    r"""
    Exact match and F1 of one answer, by SQuAD's definitions.

    Args:
        text (`str`):
            What a reader wrote.
        answers (`list[str]`):
            Right answers. None are known if it is empty.

    Returns:
        `dict` of `exact_match` (`bool`) and `f1` (`float`), both `None` where no answer is known.

    Example:
    ```python
    >>> from hf_xlir.evaluation.reader import judge_answer

    >>> judge_answer("the Seine", ["Seine", "river Seine"])
    {'exact_match': True, 'f1': 1.0}

    ```
    """
    if not answers:
        return {"exact_match": None, "f1": None}
    return {"exact_match": exact_match(text, answers), "f1": f1_score(text, answers)}


def answer_metrics(judged: Iterable[dict]):
    r"""
    Means of what [`judge_answer`] says: over all questions, and where they are in several languages, for each of them
    and over languages, of which each then counts alike.

    Args:
        judged (`Iterable[dict]`):
            With `exact_match`, `f1` and perhaps `lang`. It is read once, so that a file of any size will do. Questions
            without known answers do not count.

    Returns:
        `dict[str, float]`: `exact_match` and `f1`, between 0 and 1; with several languages also `macro_exact_match`,
        `macro_f1`, and `ko_exact_match`, `ko_f1` and so on, `other` being the questions that do not say their
        language. Empty if no answer is known.

    Example:
    ```python
    >>> from hf_xlir.evaluation.reader import answer_metrics

    >>> answer_metrics([{"exact_match": True, "f1": 1.0}, {"exact_match": False, "f1": 0.5}])
    {'exact_match': 0.5, 'f1': 0.75}

    ```
    """
    sums = {}  # by language: questions, and what they add up to
    for row in judged:
        if row["exact_match"] is None:
            continue
        of_language = sums.setdefault(row.get("lang") or "other", [0, 0, 0.0])
        for place, value in enumerate((1, row["exact_match"], row["f1"])):
            of_language[place] += value
    if not sums:
        return {}
    num_questions = sum(number for number, _, _ in sums.values())
    names = ("exact_match", "f1")
    metrics = {name: sum(each[place] for each in sums.values()) / num_questions for place, name in enumerate(names, 1)}
    if len(sums) == 1:
        return metrics
    means = {
        language: {name: of_one[place] / of_one[0] for place, name in enumerate(names, 1)}
        for language, of_one in sorted(sums.items())
    }
    metrics |= {f"macro_{name}": sum(of_one[name] for of_one in means.values()) / len(means) for name in names}
    return metrics | {f"{language}_{name}": of_one[name] for language, of_one in means.items() for name in names}


def _size(example, n_context):
    """What a question costs in a batch: how many passages, and how long the longest is."""
    passages = example["ctxs"][:n_context]
    return len(passages), max((len(each.get("title") or "") + len(each["text"]) for each in passages), default=0)


__all__ = ["ANSWER_LENGTH", "ReadAnswer", "answer_metrics", "judge_answer", "known_answers", "read_answers"]
