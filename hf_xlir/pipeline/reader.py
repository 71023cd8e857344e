"""A system's reader: answers from passages, with their probability and the attention to each passage."""

import copy

import torch

from ..models.configuration_fid_t5 import BACKBONE_MODEL_TYPES
from ..models.processing_fid_t5 import answer_limit, generate_answers
from .model_part import ModelPart, role_of


NUM_PASSAGES = 100  # if the processor sets no limit; the paper's number


class Reader:
    """A Fusion-in-Decoder reader (a [`ModelPart`], or a model with its processor) that also rates its answers."""

    def __init__(self, model, processor=None):
        self.model = model if isinstance(model, ModelPart) else ModelPart.of(model, processor, "reader_processor")
        if role_of(self.model.config) != "reader" and self.model.model_type not in BACKBONE_MODEL_TYPES:
            raise ValueError(
                f"`reader` must be a `FiDT5ForConditionalGeneration`, got a model of type {self.model.model_type!r}."
            )

    def n_context(self):
        """The default number of passages per question."""
        return self.model.get()[1].n_context or NUM_PASSAGES

    @torch.no_grad()
    def read(self, questions, passages, num_answers=1, generate_kwargs=None, device=None):
        """
        Answer a batch of questions from their passages, all of which are read. Returns the answers per question, best
        first, as dictionaries of `answer` and `score`, and the reader scores of each question's passages.
        """
        model, processor = self.model.get(device)
        processor = copy.copy(processor)
        processor.n_context = None  # all that were found are read
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
    """The most probable answers, each text once with its highest score."""
    best = {}
    for text, score in zip(texts, scores, strict=True):
        best[text] = max(score, best.get(text, score))
    ranked = sorted(best.items(), key=lambda item: -item[1])[:most]
    return [{"answer": text, "score": score} for text, score in ranked]


def _arguments(model, processor, num_answers, given):
    """The arguments of `generate`: the caller's override the model's defaults, which override the defaults here."""
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
    """
    The probability of each generated sequence `(num_sequences,)`, up to and including its first end token, from the
    unprocessed logits of each step.
    """
    tokens = output.sequences[:, 1:]  # after the decoder's start token
    rows = getattr(output, "beam_indices", None)  # (number of sequences, steps), -1 after the end
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
    return total.clamp_max(0).exp()  # rounding may exceed 1


__all__ = ["Reader", "distinct_answers"]
