"""Queries and documents for ColBERT-XLMR."""

import string

import torch
from transformers import BatchFeature

from .configuration_colbert_xlmr import ColBERTXLMRConfig
from .late_interaction import maxsim_scores
from .processing_retriever import RetrieverProcessor, kept_of_title


PUBLISHED_MARKER_IDS = (9748, 9749)  # of the released DR.DECR checkpoints


class ColBERTXLMRProcessor(RetrieverProcessor):
    r"""
    Turns texts into the inputs of [`ColBERTXLMRModel`].

    Query ids are `<s>, query marker, pieces, </s>` and expansion up to `query_length`; document ids are
    `<s>, document marker, pieces, </s>`, at most `document_length` of them, padded to the longest of the batch.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The encoder's tokenizer.
        query_marker_id, document_marker_id (`int`, *optional*):
            Ids after `<s>`. Defaults to the published 9748 and 9749 or, if the vocabulary is too small for them, its
            last two ordinary pieces.
        use_markers (`bool`, *optional*, defaults to `True`):
            Whether texts have markers. BGE-M3's have none.
        query_length (`int`, *optional*, defaults to 32):
            Token ids of a query.
        document_length (`int`, *optional*, defaults to 180):
            Most token ids of a document.
        query_expansion (`"pad"`, `"mask"` or `"none"`, *optional*, defaults to `"pad"`):
            How a short query is filled up: with padding that is scored (DR.DECR), with mask tokens that are scored
            (ColBERT), or not at all.
        attend_to_expansion (`bool`, *optional*, defaults to `False`):
            Whether other tokens attend to the expansion.
        skip_punctuation (`bool`, *optional*, defaults to `True`):
            Whether scores leave out document tokens that are one ASCII punctuation mark, alone or after a word
            boundary, as in the published systems. Other marks (`。`, `،`) count.
        skip_ids, query_skip_ids (`list[int]`, *optional*):
            Further token ids that scores leave out, in documents and in queries.
        query_prompt, document_prompt (`str`, *optional*, defaults to `""`):
            Text between the marker and every query or document.
        mask_id_zero (`bool`, *optional*, defaults to `False`):
            Whether exactly the tokens with an id other than 0 count, as in the published DR.DECR code. See
            [`ColBERTXLMRConfig`].

    Raises:
        TypeError: If a setting has the wrong type.
        ValueError: If a setting is out of range, or the tokenizer lacks a special token.

    Example:
    ```python
    >>> from transformers import AutoTokenizer
    >>> from hf_xlir import ColBERTXLMRProcessor

    >>> tokenizer = AutoTokenizer.from_pretrained("FacebookAI/xlm-roberta-base")  # doctest: +SKIP
    >>> processor = ColBERTXLMRProcessor(tokenizer)  # doctest: +SKIP
    >>> processor.process_queries(["Who maintained the throne?"]).input_ids[0, :4]  # doctest: +SKIP
    tensor([    0,  9748, 40469, 76104])

    ```
    """

    config_class = ColBERTXLMRConfig
    settings = (
        "query_marker_id",
        "document_marker_id",
        "use_markers",
        "query_length",
        "document_length",
        "query_expansion",
        "attend_to_expansion",
        "skip_punctuation",
        "skip_ids",
        "query_skip_ids",
        "query_prompt",
        "document_prompt",
        "mask_id_zero",
    )

    def __init__(
        self,
        tokenizer=None,
        query_marker_id=None,
        document_marker_id=None,
        query_length=32,
        document_length=180,
        query_expansion="pad",
        attend_to_expansion=False,
        skip_punctuation=True,
        mask_id_zero=False,
        use_markers=True,
        skip_ids=None,
        query_skip_ids=None,
        query_prompt="",
        document_prompt="",
    ):
        super().__init__(tokenizer, query_prompt, document_prompt)
        default_query_marker, default_document_marker = _default_marker_ids(tokenizer)
        self.query_marker_id = default_query_marker if query_marker_id is None else query_marker_id
        self.document_marker_id = default_document_marker if document_marker_id is None else document_marker_id
        self.query_length = query_length
        self.document_length = document_length
        self.query_expansion = query_expansion
        self.attend_to_expansion = attend_to_expansion
        self.skip_punctuation = skip_punctuation
        self.mask_id_zero = mask_id_zero
        self.use_markers = use_markers
        self.skip_ids = [] if skip_ids is None else skip_ids
        self.query_skip_ids = [] if query_skip_ids is None else query_skip_ids
        self._check_settings()

    def process_queries(self, texts, warn=True):
        r"""
        Token ids of queries.

        Args:
            texts (`list[str]`):
                Questions. Long ones are truncated, with a warning.
            warn (`bool`, *optional*, defaults to `True`):
                Whether to warn. Training on sentences, which may be long, does not.

        Returns:
            `BatchFeature` of `input_ids`, `attention_mask` and `embedding_mask` (`True` for tokens whose vectors
            count), each of shape `(number of texts, query_length)`, or `(number of texts, longest)` without expansion.

        Raises:
            ValueError: If the list or a text is empty.
        """
        texts, _ = self._check_texts(texts, "query")
        rows = self._pieces([self.query_prompt + text for text in texts], "query")["input_ids"]
        if warn:
            room = self._room(self.query_length)
            self._warn_if_cut([len(row) > room for row in rows], "query")
        rows = self._framed(rows, self.query_marker_id, self.query_length)
        expansion_id, length = self.tokenizer.pad_token_id, self.query_length
        if self.query_expansion == "mask":
            expansion_id = self.tokenizer.mask_token_id
        elif self.query_expansion == "none":
            length = max(map(len, rows))
        input_ids, real = _stack(rows, length, expansion_id)
        counts = real if self.query_expansion == "none" else torch.ones_like(real)
        if self.mask_id_zero:
            counts = input_ids != 0
        if self.query_skip_ids:
            counts = counts & ~torch.isin(input_ids, torch.tensor(self.query_skip_ids))
        attended = torch.ones_like(real) if self.attend_to_expansion and self.query_expansion != "none" else real
        return BatchFeature(
            {"input_ids": input_ids, "attention_mask": attended.long(), "embedding_mask": counts},
        )

    def process_documents(self, texts, titles=None):
        r"""
        Token ids of documents.

        Args:
            texts (`list[str]`):
                Passages. Those longer than `document_length` lose their end.
            titles (`list[str]`, *optional*):
                Put before each text, followed by a space. A title that would leave the text less than half of the room
                is truncated first.

        Returns:
            `BatchFeature` of `input_ids`, `attention_mask` and `embedding_mask` (`True` for tokens whose vectors
            count: neither padding nor skipped punctuation), each of shape `(number of texts, longest)`.

        Raises:
            ValueError: If the list or a text is empty.
        """
        texts, titles = self._check_texts(texts, "document", titles)
        if titles is not None:
            texts = [f"{title} {text}" if title else text for title, text in zip(titles, texts, strict=True)]
        rows = self._pieces([self.document_prompt + text for text in texts], "document")["input_ids"]
        room = self._room(self.document_length)
        cut = [len(row) > room for row in rows]
        self._warn_if_cut(cut, "document")
        titled = [i for i in range(len(rows)) if cut[i] and titles is not None and titles[i]]
        if titled:
            fronts = self._pieces([self.document_prompt + titles[i] for i in titled])["input_ids"]
            for i, title in zip(titled, fronts, strict=True):
                kept = kept_of_title(len(title), len(rows[i]) - len(title), room)
                rows[i] = rows[i][:kept] + rows[i][len(title) :]
        rows = self._framed(rows, self.document_marker_id, self.document_length)
        input_ids, real = _stack(rows, max(map(len, rows)), self.tokenizer.pad_token_id)
        counts = input_ids != 0 if self.mask_id_zero else real
        if self.skip_punctuation:
            counts = counts & ~torch.isin(input_ids, self._punctuation_ids())
        if self.skip_ids:
            counts = counts & ~torch.isin(input_ids, torch.tensor(self.skip_ids))
        return BatchFeature({"input_ids": input_ids, "attention_mask": real.long(), "embedding_mask": counts})

    def score(self, queries, documents):
        r"""
        Late-interaction scores of every query against every document.

        Args:
            queries, documents (`RetrieverOutput`):
                The model's outputs for `process_queries` and `process_documents`.

        Returns:
            `torch.FloatTensor` of shape `(number of queries, number of documents)`, higher is better; at least
            float32.
        """
        return maxsim_scores(
            queries.embeddings, documents.embeddings, queries.embedding_mask, documents.embedding_mask
        )

    @property
    def model_input_names(self):
        """Names of the model's inputs."""
        return ["input_ids", "attention_mask", "embedding_mask"]

    def _room(self, length):
        """How many pieces fit besides `<s>`, marker and `</s>`."""
        return length - 2 - self.use_markers

    def _framed(self, rows, marker_id, length):
        start, end = [self.tokenizer.cls_token_id, marker_id][: 1 + self.use_markers], [self.tokenizer.sep_token_id]
        return [start + row[: self._room(length)] + end for row in rows]

    def _punctuation_ids(self):
        """Ids of pieces that are one ASCII punctuation mark, with or without a word boundary before it."""
        if getattr(self, "_punctuation_ids_cache", None) is None:
            unknown = self.tokenizer.unk_token_id
            pieces = [mark for mark in string.punctuation] + ["\u2581" + mark for mark in string.punctuation]
            ids = {token_id for token_id in self.tokenizer.convert_tokens_to_ids(pieces) if token_id is not None}
            ids -= {unknown, *self.tokenizer.all_special_ids}
            self._punctuation_ids_cache = torch.tensor(sorted(ids), dtype=torch.long)
        return self._punctuation_ids_cache

    def _check_settings(self):
        if self.query_expansion not in ("pad", "mask", "none"):
            raise ValueError(f'`query_expansion` must be "pad", "mask" or "none", got {self.query_expansion!r}.')
        if self.query_expansion == "mask" and self.tokenizer.mask_token_id is None:
            raise ValueError('`query_expansion="mask"` needs a tokenizer with a `mask_token`.')
        self._check_lengths()
        for name in ("attend_to_expansion", "skip_punctuation", "mask_id_zero", "use_markers"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`{name}` must be `True` or `False`, got {getattr(self, name)!r}.")
        for name in ("query_marker_id", "document_marker_id"):
            if not isinstance(getattr(self, name), int):
                raise TypeError(f"`{name}` must be an integer or `None`, got {getattr(self, name)!r}.")
            if not 0 <= getattr(self, name) < len(self.tokenizer):
                raise ValueError(
                    f"`{name}` must be an id of the tokenizer, from 0 to {len(self.tokenizer) - 1}, got "
                    f"{getattr(self, name)}."
                )
        for name in ("skip_ids", "query_skip_ids"):
            ids = getattr(self, name)
            if not isinstance(ids, list) or not all(isinstance(each, int) for each in ids):
                raise TypeError(f"`{name}` must be a list of token ids, got {ids!r}.")


def _default_marker_ids(tokenizer):
    if len(tokenizer) > max(PUBLISHED_MARKER_IDS):
        return PUBLISHED_MARKER_IDS
    special = set(tokenizer.all_special_ids)
    ordinary = [token_id for token_id in range(len(tokenizer)) if token_id not in special]
    if len(ordinary) < 2:
        raise ValueError(f"The tokenizer has {len(ordinary)} ordinary pieces, but the two markers need one each.")
    return tuple(ordinary[-2:])


def _stack(rows, length, fill_id):
    """Ids of shape `(rows, length)` filled up with `fill_id`, and a mask of that shape: `True` for the given ids."""
    lengths = torch.tensor([len(row) for row in rows])
    real = torch.arange(length) < lengths[:, None]
    input_ids = torch.full((len(rows), length), fill_id)
    input_ids[real] = torch.tensor([token_id for row in rows for token_id in row])
    return input_ids, real


__all__ = ["ColBERTXLMRProcessor"]
