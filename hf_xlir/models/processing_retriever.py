"""Base of the retriever processors: checks of texts, pieces, and truncation."""

from collections.abc import Iterable, Mapping

from transformers.utils import logging

from .configuration_retriever import RetrieverConfig
from .processing_text import TextProcessor, fault_of, is_blank


logger = logging.get_logger(__name__)


class RetrieverProcessor(TextProcessor):
    """Base of the processors that turn texts into a retriever's inputs."""

    config_class = RetrieverConfig
    # Set by subclasses: arguments of `__init__` that are also fields of the model's configuration
    settings: tuple[str, ...] = ()

    def __init__(self, tokenizer, query_prompt, document_prompt):
        super().__init__(tokenizer)
        self.query_prompt, self.document_prompt = query_prompt, document_prompt
        for name in ("query_prompt", "document_prompt"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"`{name}` must be a string, got {getattr(self, name)!r}.")
        for name, token_id in (
            ("cls_token", tokenizer.cls_token_id),
            ("sep_token", tokenizer.sep_token_id),
            ("pad_token", tokenizer.pad_token_id),
        ):
            if token_id is None:
                raise ValueError(f"The tokenizer has no `{name}`, which every query and document needs: set it first.")

    def __call__(self, *args, **kwargs):
        """An error: queries and documents are encoded differently, each with its own method."""
        raise TypeError(f"`{type(self).__name__}` cannot be called: use `process_queries` or `process_documents`.")

    @classmethod
    def from_config(cls, tokenizer, config):
        """
        The processor that matches a model.

        Args:
            tokenizer (`PreTrainedTokenizerBase`):
                The encoder's tokenizer.
            config (`RetrieverConfig`):
                The model's configuration.
        """
        return cls(tokenizer, **{name: getattr(config, name) for name in cls.settings})

    def check_config(self, config):
        """
        Compare the settings with a model's configuration. A field that is `None` there matches any setting.

        Raises:
            ValueError: If a setting differs: the model would see other inputs than in training.
        """
        for name in self.settings:
            wanted = getattr(config, name)
            if wanted is not None and wanted != getattr(self, name):
                raise ValueError(
                    f"The processor has {name}={getattr(self, name)!r}, the model's configuration {name}={wanted!r}: "
                    f"build the processor with `{type(self).__name__}.from_config(tokenizer, model.config)`."
                )

    def _check_texts(self, texts, what, titles=None):
        """`texts` and `titles` as lists, with `None` for blank titles; an error for an empty list or a bad text."""
        plural = {"query": "queries", "document": "documents"}[what]
        texts = _as_list(texts, plural)
        if not texts:
            raise ValueError(f"Got an empty list of {plural}: give at least one.")
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"{what} {position} must be a string, got {type(text).__name__}.")
            fault = fault_of(text)
            if fault is not None:
                raise ValueError(f"{what} {position} {fault}")
        if titles is None:
            return texts, None
        titles = _as_list(titles, "titles")
        if len(titles) != len(texts):
            raise ValueError(f"`titles` must have one entry per document: got {len(titles)} for {len(texts)}.")
        for position, title in enumerate(titles):
            if not isinstance(title, str | None):
                raise TypeError(f"title {position} must be a string or `None`, got {type(title).__name__}.")
            fault = fault_of(title or "", may_be_blank=True)
            if fault is not None:
                raise ValueError(f"title {position} {fault}")
        return texts, [None if title is None or is_blank(title) else title for title in titles]

    def _check_lengths(self):
        """An error for a length that leaves no room for pieces or exceeds the tokenizer's maximum."""
        for name in ("query_length", "document_length"):
            length, most = getattr(self, name), self.tokenizer.model_max_length
            if not isinstance(length, int) or isinstance(length, bool):
                raise TypeError(f"`{name}` must be an integer, got {length!r}.")
            if not 4 <= length <= most:
                raise ValueError(f"`{name}` must be from 4 to the tokenizer's {most} token ids, got {length}.")

    def _pieces(self, texts, what=None, return_offsets_mapping=False):
        """
        The tokenizer's output for texts, without special tokens and without truncation, since a tokenizer may be set
        to cut the front. With `what`, a text without pieces is an error.
        """
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=return_offsets_mapping,
            verbose=False,
        )
        if what is not None and not all(encoded["input_ids"]):
            position = encoded["input_ids"].index([])
            raise ValueError(
                f"The tokenizer makes no pieces of {what} {position}, {texts[position][:20]!r}: leave it out."
            )
        return encoded

    def _warn_if_cut(self, cut, what):
        """Report truncated texts (a list of bool): a warning for queries, information for documents."""
        if any(cut):
            length = getattr(self, f"{what}_length")
            (logger.warning if what == "query" else logger.info)(
                f"{sum(cut)} of {len(cut)} texts were truncated to `{what}_length`={length} token ids, first {what} "
                f"{cut.index(True)}: the model does not see the rest."
            )


def kept_of_title(title_length, text_length, room):
    """
    How many pieces of a title are kept if title and text have more than `room` pieces together: all, unless the text
    would then have less than half of the room. Both lose their end, not their beginning.

    Example:
    ```python
    >>> from hf_xlir.models.processing_retriever import kept_of_title

    >>> kept_of_title(3, 500, 20), kept_of_title(500, 500, 20), kept_of_title(500, 4, 20)
    (3, 10, 16)

    ```
    """
    return min(title_length, max(room - text_length, room // 2))


def _as_list(texts, plural):
    if isinstance(texts, str):
        raise TypeError(f"Expected a list of {plural}, got one string. Put it in a list: [{texts[:20]!r}].")
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
        raise TypeError(f"Expected a list of {plural}, got {type(texts).__name__}.")
    return list(texts)


__all__ = ["RetrieverProcessor", "kept_of_title"]
