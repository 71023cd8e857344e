"""One retriever of a system: an index and, where it needs one, the model that embeds questions for it."""

from typing import NamedTuple

import numpy as np

from ..index import BM25Index, DenseIndex, LateInteractionIndex, QueryEmbeddings, embed_queries
from ..index.checks import check_ids_match
from ..index.late_interaction.attached import AttachedIndex
from .model_part import ModelPart


# The kind of an index, its class, and the family of the models that embed questions for it
KINDS = {
    "late_interaction": (LateInteractionIndex, "colbert_xlmr"),
    "dense": (DenseIndex, "biencoder"),
    "bm25": (BM25Index, None),
}
# What a search may be given, by the kind that takes it
SEARCH_OPTIONS = {"late_interaction": ("preset", "n_probe", "n_tokens", "n_rerank"), "dense": ("params",), "bm25": ()}


class Found(NamedTuple):
    """
    What one retriever found.

    Attributes:
        scores (`list[list[float]]`):
            For each question, falling.
        rows (`list[list[int]]`):
            The passages' rows.
        queries ([`QueryEmbeddings`], *optional*):
            The questions, as they were embedded; of BM25 there are none.
    """

    scores: list
    rows: list
    queries: QueryEmbeddings | None


class Retriever:
    r"""
    An index over the passages, with the model that embeds questions for it.

    Args:
        index ([`LateInteractionIndex`], [`DenseIndex`] or [`BM25Index`]):
            The index.
        model (`RetrieverPreTrainedModel`, *optional*):
            The model that embedded the passages, or a student that learnt to search its index. BM25 has none.
        processor (`RetrieverProcessor`, *optional*):
            Its processor.

    Raises:
        ValueError: If there is no such kind of index, or the model is of another family or size than the index.

    Example:
    ```python
    >>> from hf_xlir.index import BM25Index
    >>> from hf_xlir.pipeline import Retriever

    >>> Retriever(BM25Index.build([{"id": "a", "text": "The Nile."}], progress=False)).kind
    'bm25'

    ```
    """

    def __init__(self, index, model=None, processor=None):
        if isinstance(index, AttachedIndex):
            index = index.index
        self.index, self.kind = index, kind_of(index)
        self._searched = index
        family = KINDS[self.kind][1]
        if (model is None) != (family is None):
            remedy = "leave `model` out" if family is None else f"give the `model` of type {family!r} that made it"
            raise ValueError(
                f"`{type(index).__name__}` {'needs no' if family is None else 'needs a'} model: {remedy}."
            )
        self.model = (
            model if model is None or isinstance(model, ModelPart) else ModelPart.of(model, processor, "processor")
        )
        if model is None:
            return
        config = self.model.config
        if config.model_type != family:
            raise ValueError(
                f"`{type(index).__name__}` needs a model of type {family!r}, got one of type {config.model_type!r}."
            )
        dim = config.embedding_dim or config.encoder_config.hidden_size
        if dim != index.embedding_dim:
            raise ValueError(
                f"The model's embeddings have {dim} dimensions, the index has {index.embedding_dim}: use the model "
                "that embedded the passages, or build the index again."
            )

    def attach(self, passages):
        """Check that the index is over these passages, a `datasets.Dataset`, and search it for their rows."""
        if self.kind == "late_interaction":
            self._searched = AttachedIndex(self.index, passages)
        elif self.index.ids is not None:
            check_ids_match(passages, self.index.ids)
        elif len(passages) != len(self.index):
            raise ValueError(f"The dataset has {len(passages)} rows, but the index has {len(self.index)}.")

    def search(self, texts, k, allowed_ids=None, device=None, **options):
        """The best rows for each question, a [`Found`]; `options` are those of the index's search."""
        if self.kind == "bm25":
            queries = None
            scores, rows = self.index.search_batch(texts, k, allowed_ids)
        else:
            queries = embed_queries(*self.model.get(device), texts)
            if self.kind == "late_interaction":
                options = {"query_mask": queries.mask, "progress": False, **options}
            scores, rows = self._searched.search_batch(queries.embeddings, k, allowed_ids=allowed_ids, **options)
        scores, rows = np.asarray(scores), np.asarray(rows)
        there = rows >= 0  # BM25 finds what shares a word
        return Found(
            [of_one[mask].tolist() for of_one, mask in zip(scores, there, strict=True)],
            [of_one[mask].tolist() for of_one, mask in zip(rows, there, strict=True)],
            queries,
        )

    def explain(self, text, query, mask, passage):
        r"""
        Which token of a passage each token of a question matched.

        Args:
            text (`str`):
                The question.
            query (`torch.FloatTensor` of shape `(query_length, embedding_dim)`):
                Its embeddings.
            mask (`torch.BoolTensor` of shape `(query_length,)`):
                `True` for tokens that count.
            passage (`dict`):
                The passage.

        Returns:
            `list[dict]`: One for each query token that counts: `query_token`, `passage_token`, both as the tokenizer
            writes them, and `similarity`. Markers are `[Q]` and `[D]`. Of an index with pooled tokens, no single token
            was matched, and `passage_token` is `None`; of a passage that was removed from the index since, nothing is.
        """
        if passage["id"] not in self.index.contents.row_of_id:
            return []
        _, processor = self.model.get()
        asked = _tokens(processor, processor.process_queries([text], warn=False), processor.query_marker_id, "[Q]")
        read = None
        if self.index.settings.pooling_factor == 1:
            titles = [passage.get("title")]
            inputs = processor.process_documents([passage["text"]], titles=titles)
            tokens = _tokens(processor, inputs, processor.document_marker_id, "[D]")
            read = [tokens[place] for place in inputs["embedding_mask"][0].nonzero().flatten().tolist()]
        matches = self.index.explain(query, passage["id"], mask)
        if read is not None and max(match.passage_token for match in matches) >= len(read):
            raise ValueError(
                f"Passage `{passage['id']}` has {len(read)} tokens, fewer than the index has of it: its text is not "
                "the one that was embedded, or was embedded with another processor."
            )
        return [
            {
                "query_token": asked[match.query_token],
                "passage_token": None if read is None else read[match.passage_token],
                "similarity": match.similarity,
            }
            for match in matches
        ]


def kind_of(index):
    """The name of an index's kind, or a `ValueError`."""
    for kind, (index_class, _) in KINDS.items():
        if isinstance(index, index_class):
            return kind
    names = ", ".join(f"`{index_class.__name__}`" for index_class, _ in KINDS.values())
    raise ValueError(f"`index` must be one of {names}, got `{type(index).__name__}`.")


def _tokens(processor, inputs, marker_id, marker):
    """The tokens of one text, as strings."""
    ids = inputs["input_ids"][0].tolist()
    tokens = processor.tokenizer.convert_ids_to_tokens(ids)
    return [tokens[0], marker if ids[1] == marker_id else tokens[1], *tokens[2:]]


__all__ = ["KINDS", "SEARCH_OPTIONS", "Found", "Retriever"]
