"""Queries and documents for the dual encoder."""

from typing import NamedTuple

import torch
from transformers import BatchFeature

from .configuration_biencoder import BiEncoderConfig
from .processing_retriever import RetrieverProcessor, kept_of_title


class BiEncoderProcessor(RetrieverProcessor):
    r"""
    Turns texts into the inputs of [`BiEncoderModel`], with the tokenizer's own special tokens.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The encoder's tokenizer.
        query_length (`int`, *optional*, defaults to 64):
            Most token ids of a query.
        document_length (`int`, *optional*, defaults to 256):
            Most token ids of a document.
        query_prompt, document_prompt (`str`, *optional*, defaults to `""`):
            Text before every query, or before every document and its title.

    Raises:
        TypeError: If a length is not an integer, or a prompt is not a string.
        ValueError: If a length is too small or too large, or the tokenizer lacks a special token.

    Example:
    ```python
    >>> from transformers import AutoTokenizer
    >>> from hf_xlir import BiEncoderProcessor

    >>> tokenizer = AutoTokenizer.from_pretrained("FacebookAI/xlm-roberta-base")  # doctest: +SKIP
    >>> processor = BiEncoderProcessor(tokenizer)  # doctest: +SKIP
    >>> processor.process_documents(["The Nile flows north."], titles=["Nile"]).text_type  # doctest: +SKIP
    'document'

    ```
    """

    config_class = BiEncoderConfig
    settings = ("query_length", "document_length", "query_prompt", "document_prompt")

    def __init__(self, tokenizer=None, query_length=64, document_length=256, query_prompt="", document_prompt=""):
        super().__init__(tokenizer, query_prompt, document_prompt)
        self.query_length = query_length
        self.document_length = document_length
        self._check_lengths()

    def process_queries(self, texts, return_offsets_mapping=False, warn=True):
        r"""
        Token ids of queries.

        Args:
            texts (`list[str]`):
                Questions. Long ones are truncated, with a warning.
            return_offsets_mapping (`bool`, *optional*, defaults to `False`):
                Whether to add each piece's characters, for [`BiEncoderModel.word_vectors`].
            warn (`bool`, *optional*, defaults to `True`):
                Whether to warn. Training on sentences, which may be long, does not.

        Returns:
            `BatchFeature` of `input_ids` and `attention_mask`, each of shape `(number of texts, longest)`,
            `token_type_ids` if the tokenizer makes them, and `text_type="query"`, which selects the tower.

        Raises:
            ValueError: If the list or a text is empty.
        """
        texts, _ = self._check_texts(texts, "query")
        return self._encode(texts, None, self.query_length, "query", return_offsets_mapping, warn)

    def process_documents(self, texts, titles=None, return_offsets_mapping=False):
        r"""
        Token ids of documents. A title and its text are a sentence pair.

        Args:
            texts (`list[str]`):
                Passages. Those longer than `document_length` lose their end.
            titles (`list[str]`, *optional*):
                First sentence of each pair. With an empty title the text stands alone. A title that would leave the
                text less than half of the room is truncated first.
            return_offsets_mapping (`bool`, *optional*, defaults to `False`):
                Whether to add each piece's characters in the text, for [`BiEncoderModel.word_vectors`]. Pieces of the
                title have an empty range.

        Returns:
            `BatchFeature` as from [`~BiEncoderProcessor.process_queries`], with `text_type="document"`.

        Raises:
            ValueError: If the list or a text is empty.
        """
        texts, titles = self._check_texts(texts, "document", titles)
        return self._encode(texts, titles, self.document_length, "document", return_offsets_mapping)

    def score(self, queries, documents):
        r"""
        Inner products of every query with every document.

        Args:
            queries, documents (`RetrieverOutput`):
                The model's outputs for `process_queries` and `process_documents`.

        Returns:
            `torch.FloatTensor` of shape `(number of queries, number of documents)`, higher is better; at least
            float32.

        Raises:
            ValueError: If the embeddings differ in size.
        """
        if queries.embeddings.shape[-1] != documents.embeddings.shape[-1]:
            raise ValueError(
                f"Query embeddings have {queries.embeddings.shape[-1]} dimensions, document embeddings "
                f"{documents.embeddings.shape[-1]}: encode both with one model."
            )
        dtype = torch.promote_types(queries.embeddings.dtype, torch.float32)  # else half precision ties close scores
        return queries.embeddings.to(dtype) @ documents.embeddings.to(dtype).T

    @property
    def model_input_names(self):
        """Names of the model's inputs."""
        return [*self.tokenizer.model_input_names, "text_type"]

    def _encode(self, texts, titles, length, text_type, return_offsets_mapping, warn=True):
        titled = [] if titles is None else [position for position, title in enumerate(titles) if title]
        prompt = getattr(self, f"{text_type}_prompt")
        prompts = [prompt] * len(texts)
        for position in titled:
            prompts[position] = ""  # it comes before the title
        prompted = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        encoded = self._pieces(prompted, text_type, return_offsets_mapping)
        title_pieces, frames = {}, {False: self._frame(texts[0], paired=False)}
        if titled:
            frames[True] = self._frame(texts[0], paired=True)
            if frames[True].room(length) < 1:
                raise ValueError(
                    f"`document_length`={length} has no room for pieces besides the special tokens of a title and a "
                    "text: raise it, or leave the titles out."
                )
            rows = self._pieces([prompt + titles[position] for position in titled])["input_ids"]
            title_pieces = dict(zip(titled, rows, strict=True))

        names = ["input_ids", "attention_mask"]
        if "token_type_ids" in self.tokenizer.model_input_names:
            names.insert(1, "token_type_ids")
        if return_offsets_mapping:
            names.append("offset_mapping")
        fields, cut = {name: [] for name in names}, []
        for position, text in enumerate(encoded["input_ids"]):
            title = title_pieces.get(position, [])
            frame = frames[position in title_pieces]
            room = frame.room(length)
            cut.append(len(title) + len(text) > room)
            title = title[: kept_of_title(len(title), len(text), room)]
            text = text[: room - len(title)]
            row = {"input_ids": [*frame.start, *title, *frame.middle, *text, *frame.end]}
            row["attention_mask"] = [1] * len(row["input_ids"])
            row["token_type_ids"] = frame.segments(len(title), len(text))
            if return_offsets_mapping:
                before = len(frame.start) + len(title) + len(frame.middle)
                offsets = _shifted(encoded["offset_mapping"][position][: len(text)], len(prompts[position]))
                row["offset_mapping"] = [*[(0, 0)] * before, *offsets, *[(0, 0)] * len(frame.end)]
            for name in names:
                fields[name].append(row[name])
        if warn:
            self._warn_if_cut(cut, text_type)
        return BatchFeature({**self._pad(fields), "text_type": text_type})

    def _frame(self, example, paired):
        """The special tokens that the tokenizer puts around a text, or around a title and a text."""
        encoded = self.tokenizer(example, example if paired else None, return_token_type_ids=True, verbose=False)
        ids, segments, sequences = encoded["input_ids"], encoded["token_type_ids"], encoded.sequence_ids(0)
        # sequences, such as [None, 0, 0, None, None, 1, 1, None]: 0 is the title, 1 the text, or 0 the text alone
        text_start = sequences.index(int(paired))
        text_end = len(ids) - sequences[::-1].index(int(paired))
        title_start = sequences.index(0)
        title_end = len(ids) - sequences[::-1].index(0) if paired else text_start
        special = slice(title_start), slice(title_end, text_start), slice(text_end, None)
        return _Frame(
            *(ids[part] for part in special),
            special_segments=[segments[part] for part in special],
            title_segment=segments[title_start],
            text_segment=segments[text_start],
        )

    def _pad(self, fields):
        longest = max(map(len, fields["input_ids"]))
        fill = {
            "input_ids": self.tokenizer.pad_token_id,
            "token_type_ids": self.tokenizer.pad_token_type_id,
            "offset_mapping": (0, 0),
        }
        return {
            name: torch.tensor([[*row, *[fill.get(name, 0)] * (longest - len(row))] for row in rows])
            for name, rows in fields.items()
        }


def _shifted(offsets, start):
    """Characters counted from `start`; earlier pieces get an empty range."""
    return [(max(first - start, 0), max(last - start, 0)) for first, last in offsets]


class _Frame(NamedTuple):
    """Special tokens before the title, between title and text, and after the text; and all segment ids."""

    start: list[int]
    middle: list[int]
    end: list[int]
    special_segments: list[list[int]]
    title_segment: int
    text_segment: int

    def room(self, length):
        """How many pieces fit besides the special tokens."""
        return length - len(self.start) - len(self.middle) - len(self.end)

    def segments(self, title_length, text_length):
        """Segment ids of a title and a text with these numbers of pieces."""
        start, middle, end = self.special_segments
        return [*start, *[self.title_segment] * title_length, *middle, *[self.text_segment] * text_length, *end]


__all__ = ["BiEncoderProcessor"]
