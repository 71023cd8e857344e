"""Inputs of the Fusion-in-Decoder reader, in which every passage stands with its question, and its answers."""

from collections.abc import Mapping

import numpy as np
from transformers import BatchFeature
from transformers.utils import logging

from .configuration_fid_t5 import FiDT5Config
from .processing_text import TextProcessor, fault_of, is_blank


logger = logging.get_logger(__name__)

ANSWER_LENGTH = 50  # token ids of an answer where the processor sets no limit


class FiDT5Processor(TextProcessor):
    r"""
    Turns questions, passages and answers into the inputs of [`FiDT5ForConditionalGeneration`].

    A passage is read as `question: {question} title: {title} context: {text}`, without `title:` if it has no title. A
    question without passages is read as `question: {question}` (section 3 of
    https://huggingface.co/papers/2007.01282).

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The backbone's tokenizer: T5, mT5, umT5.
        text_maxlength (`int`, *optional*, defaults to 250):
            Most token ids of a passage with its question (250 in the paper). Longer passages lose their end, with a
            warning if none of the text is left. `None` keeps all.
        answer_maxlength (`int`, *optional*, defaults to 50):
            Most token ids of an answer, including `</s>`, which is never cut (50 in the FiD repository's recipe).
            `None` keeps all.
        n_context (`int`, *optional*, defaults to 100):
            Most passages per question, from the first (100 in the paper). `None` keeps all.
        passage_eos (`bool`, *optional*, defaults to `False`):
            Whether `</s>` ends each passage. The readers that the FiD repository released were trained without it.
            Answers always end with `</s>`.

    Raises:
        TypeError: If a setting has the wrong type.
        ValueError: If a setting is out of range, or the tokenizer has no padding or `</s>` token.

    Example:
    ```python
    >>> from transformers import T5Tokenizer
    >>> from hf_xlir import FiDT5Processor

    >>> processor = FiDT5Processor(T5Tokenizer(), n_context=20)  # or `from_pretrained("google-t5/t5-base")`
    >>> inputs = processor(
    ...     ["Which city is Korea's capital?"],
    ...     passages=[[{"title": "Seoul", "text": "Seoul is the capital of South Korea."}, {"text": "It rained."}]],
    ...     answers=["Seoul"],
    ... )
    >>> inputs["input_ids"].shape[:2], sorted(inputs)
    (torch.Size([1, 2]), ['attention_mask', 'input_ids', 'labels'])

    ```
    """

    config_class = FiDT5Config
    settings = ("text_maxlength", "answer_maxlength", "n_context", "passage_eos")

    def __init__(self, tokenizer=None, text_maxlength=250, answer_maxlength=50, n_context=100, passage_eos=False):
        super().__init__(tokenizer)
        self.text_maxlength = text_maxlength
        self.answer_maxlength = answer_maxlength
        self.n_context = n_context
        self.passage_eos = passage_eos
        self._check_settings()

    def __call__(self, questions, passages=None, answers=None, return_tensors="pt"):
        r"""
        Build the inputs of a batch.

        Args:
            questions (`list[str]` of length `batch_size`):
                The questions.
            passages (`list[list[dict]]` of length `batch_size`, *optional*):
                Each question's passages, best first: `{"title": str, "text": str}`. The title is optional, other keys
                are ignored, and the first `n_context` passages count. A question with an empty list is read alone;
                `None` means that all questions are.
            answers (`list[str]` of length `batch_size`, *optional*):
                The answers that the reader learns to write.
            return_tensors (`str`, *optional*, defaults to `"pt"`):
                `"pt"` or `"np"`.

        Returns:
            [`~transformers.BatchFeature`] with

            - **input_ids** of shape `(batch_size, num_passages, length)`, with the batch's largest number of passages
              per question and the length of its longest passage;
            - **attention_mask** of the same shape: 1 for tokens, 0 for padding. A question with fewer passages ends
              with passages of padding, which the reader skips;
            - **labels** of shape `(batch_size, target_length)`, if `answers` is given: -100 for padding.

        Raises:
            TypeError: If questions, passages or answers have the wrong type.
            ValueError: If a list is empty or differs in length from `questions`, a question or passage is empty or not
                valid Unicode, or a passage has no `text`.
        """
        self._check_settings()
        questions = _checked_texts(questions, "questions")
        passages = [[] for _ in questions] if passages is None else self._checked_passages(passages, len(questions))
        if answers is not None:
            answers = _checked_texts(answers, "answers", length=len(questions), may_be_empty=True)

        # The questions alone come first: a question without passages is read so, and their lengths tell which passages
        # lose a part of the question
        texts = [f"question: {question}" for question in questions]
        firsts = []  # where each question's passages begin
        for position, of_question in enumerate(passages):
            firsts.append(len(texts) if of_question else position)
            texts += [texts[position] + _passage_text(passage) for passage in of_question]
        rows = self._tokenize(texts)
        self._warn_of_cut_questions(rows[: len(questions)])
        self._warn_of_unread_texts(passages, firsts, texts, rows)

        counts = [max(len(of_question), 1) for of_question in passages]
        chosen = [rows[first : first + count] for first, count in zip(firsts, counts, strict=True)]
        ends = [self.tokenizer.eos_token_id] if self.passage_eos else []
        chosen = [[self._cut(row, self.text_maxlength, ends) for row in of_question] for of_question in chosen]
        length = max(len(row) for of_question in chosen for row in of_question)

        input_ids = np.full((len(questions), max(counts), length), self.tokenizer.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        for i, of_question in enumerate(chosen):
            for j, row in enumerate(of_question):
                input_ids[i, j, : len(row)] = row
                attention_mask[i, j, : len(row)] = 1
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        if answers is not None:
            features["labels"] = self._labels(answers)
        return BatchFeature(features, tensor_type=return_tensors)

    def _labels(self, answers):
        """Token ids of the answers with `</s>`, padded with -100, of shape `(batch_size, target_length)`."""
        rows = [
            self._cut(row, self.answer_maxlength, [self.tokenizer.eos_token_id]) for row in self._tokenize(answers)
        ]
        labels = np.full((len(rows), max(map(len, rows))), -100, dtype=np.int64)
        for i, row in enumerate(rows):
            labels[i, : len(row)] = row
        return labels

    def _tokenize(self, texts):
        """Token ids without special tokens and truncation, since a tokenizer may be set to cut the front."""
        return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]

    @staticmethod
    def _cut(row, length, ends):
        """The token ids followed by `ends`, at most `length` in total."""
        return row + ends if length is None else row[: length - len(ends)] + ends

    def _warn_of_cut_questions(self, rows):
        if self.text_maxlength is None:
            return
        cut = [i for i, row in enumerate(rows) if len(row) > self.text_maxlength - self.passage_eos]
        if cut:
            logger.warning(
                f"{len(cut)} of {len(rows)} questions were truncated to `text_maxlength`={self.text_maxlength} token "
                f"ids, first question {cut[0]} with {len(rows[cut[0]])}: neither its end nor its passages are read. "
                "Shorten the question, or raise `text_maxlength`."
            )

    def _warn_of_unread_texts(self, passages, firsts, texts, rows):
        """Warn of passages that are cut before their text begins, except those of questions that are cut."""
        if self.text_maxlength is None:
            return
        room = self.text_maxlength - self.passage_eos
        places, fronts = [], []
        for i, of_question in enumerate(passages):
            for j, passage in enumerate(of_question if len(rows[i]) <= room else []):
                if len(rows[firsts[i] + j]) > room:
                    front = texts[firsts[i] + j][: -len(passage["text"])].rstrip()
                    if len(front.encode("utf-8")) + 1 >= room:  # otherwise it has fewer pieces than that
                        places.append(f"passages[{i}][{j}]")
                        fronts.append(front)
        pieces = self._tokenize(fronts) if fronts else []
        cut = [place for place, row in zip(places, pieces, strict=True) if len(row) >= room]
        if cut:
            logger.warning(
                f"{len(cut)} passages were truncated to `text_maxlength`={self.text_maxlength} token ids before their "
                f"text begins, first `{cut[0]}`. Shorten the question or the title, or raise `text_maxlength`."
            )

    def _checked_passages(self, passages, length):
        """The first `n_context` passages of each question, checked."""
        if not isinstance(passages, (list, tuple)) or not all(isinstance(each, (list, tuple)) for each in passages):
            raise TypeError(
                f"`passages` must be a list with one list of passages per question, got {_type_of(passages)}. For one "
                "question, write `passages=[[...]]`."
            )
        if len(passages) != length:
            raise ValueError(f"`passages` has {len(passages)} lists, expected one per question: {length}.")
        passages = [of_question[: self.n_context] for of_question in passages]
        for i, of_question in enumerate(passages):
            for j, passage in enumerate(of_question):
                where = f"passages[{i}][{j}]"
                if not isinstance(passage, Mapping):
                    raise TypeError(f"`{where}` must be a dict with `title` and `text`, got {type(passage).__name__}.")
                if "text" not in passage:
                    raise ValueError(f"`{where}` needs a `text`, got the keys {sorted(passage)}.")
                text, title = passage["text"], passage.get("title")
                if not isinstance(text, str) or not isinstance(title, str | None):
                    raise TypeError(
                        f"`title` and `text` of `{where}` must be strings, got {type(title).__name__} and "
                        f"{type(text).__name__}."
                    )
                if (fault := fault_of(text)) is not None:
                    raise ValueError(f"The `text` of `{where}` {fault}")
                if (fault := fault_of(title or "", may_be_blank=True)) is not None:
                    raise ValueError(f"The `title` of `{where}` {fault}")
        return passages

    def _check_settings(self):
        """An error for a setting that leaves no room for a token. Users may change settings at any time."""
        if not isinstance(self.passage_eos, bool):
            raise TypeError(f"`passage_eos` must be `True` or `False`, got {self.passage_eos!r}.")
        for name, least in (("text_maxlength", 1 + self.passage_eos), ("answer_maxlength", 2), ("n_context", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise TypeError(f"`{name}` must be an integer or `None` (no limit), got {value!r}.")
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least} or `None` (no limit), got {value}.")
        for name in ("pad_token", "eos_token"):
            if getattr(self.tokenizer, name) is None:
                raise ValueError(f"The tokenizer has no `{name}`, which every batch needs: set it first.")


def _passage_text(passage):
    title = passage.get("title") or ""
    return ("" if is_blank(title) else f" title: {title}") + f" context: {passage['text']}"


def _type_of(value):
    if not isinstance(value, (list, tuple)):
        return type(value).__name__
    return f"a {type(value).__name__} of " + ", ".join(sorted({type(each).__name__ for each in value}))


def _checked_texts(texts, name, length=None, may_be_empty=False):
    """The texts as a list, checked."""
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"`{name}` must be a list of strings, got {_type_of(texts)}.")
    if length is not None and len(texts) != length:
        raise ValueError(f"`{name}` must have one entry per question: got {len(texts)} for {length} questions.")
    if not texts:
        raise ValueError(f"`{name}` is empty: give at least one.")
    for position, text in enumerate(texts):
        if (fault := fault_of(text, may_be_blank=may_be_empty)) is not None:
            raise ValueError(f"`{name}[{position}]` {fault}")
    return list(texts)


def answer_limit(processor):
    """The most token ids of an answer, for a [`FiDT5Processor`]."""
    return processor.answer_maxlength or ANSWER_LENGTH


def generate_answers(model, processor, questions, passages, **arguments):
    r"""
    Let a reader answer questions, each from its passages.

    Args:
        model ([`FiDT5ForConditionalGeneration`]):
            The reader.
        processor ([`FiDT5Processor`]):
            Its processor.
        questions (`list[str]`):
            The questions.
        passages (`list[list[dict]]`):
            Each question's passages, best first.
        arguments:
            Arguments of `generate`.

    Returns:
        `tuple` of the output of `generate`; the answers (`list[str]`), `num_return_sequences` per question, without
        white space around them; and with `output_reader_scores=True` the reader score of each passage that was read
        (`list[list[float]]`), otherwise `None`.

    Example:
    ```python
    >>> from hf_xlir.models import generate_answers

    >>> passages = [[{"title": "Bell", "text": "He did."}]]
    >>> _, answers, _ = generate_answers(model, processor, ["Who?"], passages)  # doctest: +SKIP
    >>> answers  # doctest: +SKIP
    ['Bell']

    ```
    """
    inputs = processor(questions, passages).to(model.device)
    output = model.generate(**inputs, **{**arguments, "return_dict_in_generate": True})
    texts = [text.strip() for text in processor.batch_decode(output.sequences, skip_special_tokens=True)]
    scores = None
    if arguments.get("output_reader_scores"):
        scores = scores_read(output.reader_scores.tolist(), passages, processor)
    return output, texts, scores


def scores_read(scores, passages, processor):
    """Each question's scores of the passages that it has and the reader reads, without the padding behind them."""
    return [of_one[: len(own[: processor.n_context])] for of_one, own in zip(scores, passages, strict=True)]


__all__ = ["ANSWER_LENGTH", "FiDT5Processor", "answer_limit", "generate_answers", "scores_read"]
