"""Queries and documents for the dual encoder."""

import torch
from transformers import BatchFeature

from .processing_retriever import RetrieverProcessor


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

    Raises:
        ValueError: If a length is too small, or the tokenizer lacks a special token.

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

    settings = ("query_length", "document_length")

    def __init__(self, tokenizer=None, query_length=64, document_length=256):
        super().__init__(tokenizer)
        self.query_length = query_length
        self.document_length = document_length
        self._check_lengths()

    def process_queries(self, texts, return_offsets_mapping=False, warn=True):
        r"""
        Token ids of queries.

        Args:
            texts (`list[str]`):
                Questions. One that is too long is truncated, with a warning.
            return_offsets_mapping (`bool`, *optional*, defaults to `False`):
                Whether to add each piece's characters, for [`BiEncoderModel.word_vectors`].
            warn (`bool`, *optional*, defaults to `True`):
                Whether to warn; training on sentences that may be long does not.

        Returns:
            `BatchFeature` of `input_ids` and `attention_mask`, each of shape `(number of texts, longest)`, what else
            the tokenizer gives, and `text_type="query"`, which chooses the tower.

        Raises:
            ValueError: If the list or a text is empty.
        """
        texts, _ = self._check_texts(texts, "query")
        return self._encode(texts, None, self.query_length, "query", return_offsets_mapping, warn)

    def process_documents(self, texts, titles=None, return_offsets_mapping=False):
        r"""
        Token ids of documents; title and text are a sentence pair, of which the text is cut if the two are too long.

        Args:
            texts (`list[str]`):
                Passages.
            titles (`list[str]`, *optional*):
                First sentence of each pair; an empty title leaves the text alone.
            return_offsets_mapping (`bool`, *optional*, defaults to `False`):
                Whether to add each piece's characters in the text (in the title: an empty range), for
                [`BiEncoderModel.word_vectors`].

        Returns:
            `BatchFeature` as [`~BiEncoderProcessor.process_queries`] gives it, with `text_type="document"`.

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
            `torch.FloatTensor` of shape `(number of queries, number of documents)`, higher is better.

        Raises:
            ValueError: If the embeddings differ in size.
        """
        if queries.embeddings.shape[-1] != documents.embeddings.shape[-1]:
            raise ValueError(
                f"Query embeddings have {queries.embeddings.shape[-1]} dimensions, document embeddings "
                f"{documents.embeddings.shape[-1]}: encode both with one model."
            )
        return queries.embeddings @ documents.embeddings.T

    @property
    def model_input_names(self):
        """Names of the model's inputs."""
        return [*self.tokenizer.model_input_names, "text_type"]

    def _encode(self, texts, titles, length, text_type, return_offsets_mapping, warn=True):
        titles = titles or [None] * len(texts)
        fields, cut = {}, [False] * len(texts)
        for paired in (False, True):
            positions = [position for position, title in enumerate(titles) if bool(title) == paired]
            if not positions:
                continue
            first = [titles[position] if paired else texts[position] for position in positions]
            second = [texts[position] for position in positions] if paired else None
            # "longest_first" cuts the text down to the title's length before it touches the title.
            encoded = self.tokenizer(
                first,
                second,
                truncation="longest_first",
                max_length=length,
                return_offsets_mapping=return_offsets_mapping,
            )
            for position, encoding in zip(positions, encoded.encodings, strict=True):
                cut[position] = bool(encoding.overflowing)
            if return_offsets_mapping:
                text_sequence = 1 if paired else 0
                encoded["offset_mapping"] = [
                    [
                        offsets if sequence == text_sequence else (0, 0)
                        for offsets, sequence in zip(row, ids, strict=True)
                    ]
                    for row, ids in zip(
                        encoded["offset_mapping"],
                        (encoding.sequence_ids for encoding in encoded.encodings),
                        strict=True,
                    )
                ]
            for name, rows in encoded.items():
                fields.setdefault(name, [None] * len(texts))
                for position, row in zip(positions, rows, strict=True):
                    fields[name][position] = row
        if warn:
            self._warn_if_cut(cut, text_type)
        return BatchFeature({**self._pad(fields), "text_type": text_type})

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


__all__ = ["BiEncoderProcessor"]
