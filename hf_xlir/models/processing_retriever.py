"""What the two retriever families' processors share: checked texts and tokenization."""

from transformers import ProcessorMixin
from transformers.utils import logging


logger = logging.get_logger(__name__)


class RetrieverProcessor(ProcessorMixin):
    """Base of the processors that turn texts into a retriever's inputs. Subclasses name their settings."""

    # Set by subclasses: arguments of `__init__` that are also fields of the model's configuration
    settings: tuple[str, ...] = ()

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        for name, token_id in (
            ("cls_token", tokenizer.cls_token_id),
            ("sep_token", tokenizer.sep_token_id),
            ("pad_token", tokenizer.pad_token_id),
        ):
            if token_id is None:
                raise ValueError(f"The tokenizer has no `{name}`, which every query and document needs. Set it first.")

    def __call__(self, *args, **kwargs):
        """Refused: queries and documents are encoded differently, so each has a method of its own."""
        raise TypeError(
            f"`{type(self).__name__}` is not called: use its `process_queries` or `process_documents`, which encode "
            "texts differently."
        )

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
        Compare with a model's configuration; fields that are `None` there follow the processor.

        Raises:
            ValueError: If a setting differs, since the model would then see other inputs than it was trained on.
        """
        for name in self.settings:
            wanted = getattr(config, name)
            if wanted is not None and wanted != getattr(self, name):
                raise ValueError(
                    f"The processor has {name}={getattr(self, name)!r}, the model's configuration {name}={wanted!r}. "
                    f"Build the processor with `{type(self).__name__}.from_config(tokenizer, model.config)`."
                )

    def _check_texts(self, texts, what, titles=None):
        """
        Return `texts` and `titles` as lists, blank titles as `None`, or raise for an empty list, an empty text, or
        something that is not text.
        """
        plural = {"query": "queries", "document": "documents"}[what]
        if isinstance(texts, str):
            raise TypeError(f"Expected a list of {plural}, got one string. Put it in a list: [{texts[:20]!r}].")
        texts = list(texts)
        if not texts:
            raise ValueError(f"Got an empty list of {plural}: give at least one.")
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"{what} {position} must be a string, got {type(text).__name__}.")
            if not text.strip():
                raise ValueError(f"{what} {position} is empty. Leave empty texts out.")
        if titles is None:
            return texts, None
        if isinstance(titles, str):
            raise TypeError(f"Expected a list of titles, got one string. Put it in a list: [{titles[:20]!r}].")
        titles = list(titles)
        if len(titles) != len(texts):
            raise ValueError(f"`titles` must have one entry a document: got {len(titles)} for {len(texts)}.")
        for position, title in enumerate(titles):
            if not isinstance(title, str | None):
                raise TypeError(f"title {position} must be a string or `None`, got {type(title).__name__}.")
        return texts, [title if title and title.strip() else None for title in titles]

    def _check_lengths(self):
        """Raise for a length that leaves no room for pieces, or that the encoder has no positions for."""
        for name in ("query_length", "document_length"):
            length, most = getattr(self, name), self.tokenizer.model_max_length
            if not 4 <= length <= most:
                raise ValueError(f"`{name}` must be from 4 to the tokenizer's {most} token ids, got {length}.")

    def _warn_if_cut(self, cut, what):
        """Say which texts (a list of bool) lose their end: routine for passages, worth a warning for questions."""
        if any(cut):
            length = getattr(self, f"{what}_length")
            (logger.warning if what == "query" else logger.info)(
                f"{sum(cut)} of {len(cut)} texts were truncated to `{what}_length`={length} token ids, the first of "
                f"them {what} {cut.index(True)}: what stands behind is not seen by the model."
            )


__all__ = ["RetrieverProcessor"]
