"""A system's reader: answers from passages, with how likely they are and what was looked at."""

import copy
from typing import NamedTuple

import torch

from ..models.fid_answers import answer_limit, generate_answers
from .model_part import ModelPart


NUM_PASSAGES = 100  # where the processor sets no limit; that of the paper


class Answer(NamedTuple):
    """
    Attributes:
        text (`str`):
            The answer.
        score (`float`):
            Its probability, from 0 to 1: the product of those of its tokens, the end included, given the question and
            all passages.
    """

    text: str
    score: float


class Reader:
    r"""
    A Fusion-in-Decoder reader that answers with what it says about the answer.

    Args:
        model ([`FiDT5ForConditionalGeneration`]):
            The reader.
        processor ([`FiDT5Processor`]):
            Its processor.

    Raises:
        ValueError: If it is another kind of model.
    """

    def __init__(self, model, processor=None):
        self.model = model if isinstance(model, ModelPart) else ModelPart.of(model, processor, "reader_processor")
        if self.model.config.model_type not in ("fid_t5", "t5", "mt5", "umt5"):
            raise ValueError(
                "`reader` must be a `FiDT5ForConditionalGeneration`, got a model of type "
                f"{self.model.config.model_type!r}."
            )

    def n_context(self):
        """How many passages the reader reads of a question unless told otherwise."""
        return self.model.get()[1].n_context or NUM_PASSAGES

    @torch.no_grad()
    def read(self, questions, passages, num_answers=1, generate_kwargs=None, device=None):
        r"""
        Answer a batch of questions from their passages, all of which are read.

        Args:
            questions (`list[str]`):
                The questions.
            passages (`list[list[dict]]`):
                Each question's passages. One without any is read alone.
            num_answers (`int`, *optional*, defaults to 1):
                Answers of each question, best first. Those that are the same text are one, so that there may be fewer.
            generate_kwargs (`dict`, *optional*):
                Arguments of `generate`.
            device (`torch.device`, *optional*):
                Where the model shall be.

        Returns:
            `tuple[list[list[Answer]], list[list[float]]]`: Each question's answers, and how much the reader looked at
            each of its passages ([`FiDT5ForConditionalGeneration.reader_scores`]).
        """
        model, processor = self.model.get(device)
        processor = copy.copy(processor)
        processor.n_context = None  # how many are read was decided before
        arguments = _arguments(model, processor, num_answers, generate_kwargs or {})
        arguments |= {"output_reader_scores": True, "output_logits": True}
        output, texts, looked = generate_answers(model, processor, questions, passages, **arguments)
        scores = _sequence_probabilities(output, _end_ids(model, arguments)).tolist()
        per_question = len(texts) // len(questions)
        starts = range(0, len(texts), per_question)
        answers = [
            distinct_answers(texts[start : start + per_question], scores[start : start + per_question], num_answers)
            for start in starts
        ]
        return answers, looked


def distinct_answers(texts, scores, most):
    """The likeliest answers, each text once, with the score of its likeliest form."""
    best = {}
    for text, score in zip(texts, scores, strict=True):
        best[text] = max(score, best.get(text, score))
    return sorted((Answer(*each) for each in best.items()), key=lambda answer: -answer.score)[:most]


def _arguments(model, processor, num_answers, given):
    """The arguments of `generate`: the caller's, over the model's own defaults, over those of this file."""
    arguments, own = dict(given), model.generation_config
    if {"max_length", "max_new_tokens"}.isdisjoint(arguments) and own.max_new_tokens is None:
        arguments["max_new_tokens"] = answer_limit(processor)
    if num_answers > 1:
        arguments.setdefault("num_return_sequences", num_answers)
        if not arguments.get("do_sample", own.do_sample):
            arguments.setdefault("num_beams", max(num_answers, own.num_beams or 1))
    return arguments


def _end_ids(model, arguments):
    """Ids of the tokens that end an answer."""
    ends = arguments.get("eos_token_id", model.generation_config.eos_token_id)
    ends = model.config.eos_token_id if ends is None else ends
    return torch.tensor(ends if isinstance(ends, list) else [ends], device=model.device)


def _sequence_probabilities(output, end_ids):
    r"""
    The probability of each generated sequence, from the logits of each step, before any processing of them.

    Args:
        output (`ModelOutput`):
            Of `generate`, with `logits`.
        end_ids (`torch.LongTensor` of shape `(number of ends,)`):
            Ids behind which nothing counts.

    Returns:
        `torch.FloatTensor` of shape `(number of sequences,)`.
    """
    tokens = output.sequences[:, 1:]  # behind the decoder's start
    rows = getattr(output, "beam_indices", None)  # (number of sequences, steps), -1 behind the end
    total = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
    going_on = torch.ones_like(total, dtype=torch.bool)
    num_steps = tokens.shape[1] if rows is None else min(tokens.shape[1], rows.shape[1])
    for step, logits in enumerate(output.logits[:num_steps]):
        of_step = torch.arange(len(tokens), device=tokens.device) if rows is None else rows[:, step]
        places = (going_on & (of_step >= 0)).nonzero().flatten()
        scores = logits[of_step[places]].float()  # (places, vocab_size)
        chosen = tokens[places, step]
        total[places] += (scores.gather(1, chosen[:, None])[:, 0] - scores.logsumexp(dim=1)).double()
        going_on[places] = ~torch.isin(chosen, end_ids)
    return total.clamp_max(0).exp()  # rounding may leave a little more than 1


__all__ = ["Answer", "Reader", "distinct_answers"]
