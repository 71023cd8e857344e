"""One retriever of a system: an index and, if it is searched with vectors, the encoder of its queries."""

import numpy as np

from ..index.base import bind_index, check_index, index_attribute
from .model_part import ForeignEncoder, encoder_part


class Retriever:
    r"""
    An index over passages, with the encoder of its queries.

    Args:
        index ([`~hf_xlir.index.SearchIndex`]):
            The index: ours, or any object with that protocol.
        encoder (*optional*):
            For an index that is searched with vectors: a retriever model with its `processor`, `(model, processor)`,
            a path or id on the Hub, or any object with `encode_query`. It embedded the passages, or is a student that
            learned to search their index.
        processor (`RetrieverProcessor`, *optional*):
            The processor, if `encoder` is a model.

    Raises:
        ValueError: If `index` or `encoder` does not follow its protocol, or the index is searched with other vectors
            than the encoder gives.

    Example:
    ```python
    >>> from hf_xlir.index import BM25Index
    >>> from hf_xlir.pipeline import Retriever

    >>> Retriever(BM25Index.build([{"id": "a", "text": "The Nile."}], progress=False)).kind
    'bm25'

    ```
    """

    def __init__(self, index, encoder=None, processor=None):
        if not hasattr(index, "kind"):
            index = getattr(index, "index", index)  # what `passages.get_index` returns refers to the index
        self.index = self._searched = check_index(index)
        self.kind, self._ids, self._num_rows = index.kind, index.ids, None
        self.search_options = tuple(name for name in index_attribute(index, "search_options") if name != "progress")
        if (encoder is None) != (index.queries == "text"):
            needs = "is searched with texts: leave `model` and `encoder` out"
            if index.queries != "text":
                needs = f"is searched with {index.queries}: give the `model` or `encoder` that embedded the passages"
            raise ValueError(f"An index of kind {self.kind!r} {needs}.")
        self.model = None if encoder is None else encoder_part(encoder, processor)
        if self.model is None:
            return
        if self.model.vectors not in (None, index.queries):
            raise ValueError(
                f"An index of kind {self.kind!r} is searched with {index.queries}, but `{self.model.model_type}` "
                f"gives {self.model.vectors}: use the encoder that embedded the passages."
            )
        dims = self.model.embedding_dim, index_attribute(index, "embedding_dim")
        if None not in dims and dims[0] != dims[1]:
            raise ValueError(
                f"The encoder's vectors have {dims[0]} dimensions, the index has {dims[1]}: use the encoder that "
                "embedded the passages, or build the index again."
            )

    @property
    def explains(self):
        """Whether the index can say which tokens matched."""
        is_ours = self.model is not None and not isinstance(self.model, ForeignEncoder)
        return is_ours and self.index.queries == "token_vectors" and index_attribute(self.index, "explain") is not None

    def attach(self, passages):
        """Check that the index is over these passages, a `datasets.Dataset`. Searches then return their rows."""
        self._searched, self._ids, self._num_rows = bind_index(self.index, passages), self.index.ids, len(passages)

    def search(self, texts, k, allowed_ids=None, device=None, **options):
        """
        For each question, scores (falling) and rows of the passages as lists, and the [`QueryEmbeddings`] of the
        questions, `None` without an encoder. `options` are those of the index's search.
        """
        queries, given = None, texts
        if self.model is not None:
            queries = self.model.embed(texts, device)
            given = queries.embeddings
            if self.index.queries == "token_vectors":
                options["query_mask"] = queries.mask
        if "progress" in index_attribute(self.index, "search_options"):
            options["progress"] = False
        scores, rows = self._searched.search_batch(given, k, allowed_ids=allowed_ids, **options)
        scores, rows = self._checked(scores, rows, len(texts))
        found = rows >= 0  # an index may find fewer than `k`
        return (
            [own[mask].tolist() for own, mask in zip(scores, found, strict=True)],
            [own[mask].tolist() for own, mask in zip(rows, found, strict=True)],
            queries,
        )

    def _checked(self, scores, rows, num_queries):
        """What a search found, as arrays; an error that names the index if the shapes or rows are wrong."""
        try:
            scores, rows = np.asarray(scores), np.asarray(rows)
        except ValueError as error:  # lists of different lengths
            raise ValueError(self._expected(num_queries, error)) from error
        if rows.ndim != 2 or rows.shape != scores.shape or len(rows) != num_queries:
            raise ValueError(self._expected(num_queries, f"shapes {scores.shape} and {rows.shape}"))
        if rows.size == 0:
            return scores, rows.astype(np.int64)
        if not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(self._expected(num_queries, f"rows of type {rows.dtype}"))
        if self._num_rows is not None and rows.max() >= self._num_rows:
            raise ValueError(self._expected(num_queries, f"row {rows.max()} of {self._num_rows} passages"))
        return scores, rows

    def _expected(self, num_queries, got):
        return (
            f"`search_batch` of the index of kind {self.kind!r} must return scores and rows of one shape "
            f"({num_queries}, width), with rows of the passages and -1 where nothing was found; got {got}."
        )

    def explain(self, text, query, mask, passage):
        """
        Which token of a passage each token of a question matched, from the question's embeddings `query`
        `(query_length, embedding_dim)` and their `mask`: a list of `query_token`, `passage_token` and `similarity`,
        with markers as `[Q]` and `[D]`. With pooled tokens `passage_token` is `None`. A passage that was removed from
        the index since has no matches.
        """
        ids = self.index.ids
        if ids is not self._ids and passage["id"] not in ids:
            return []
        _, processor = self.model.get()
        asked = _tokens(processor, processor.process_queries([text], warn=False), processor.query_marker_id, "[Q]")
        read = None
        if getattr(getattr(self.index, "settings", None), "pooling_factor", 1) == 1:
            titles = [passage.get("title")]
            inputs = processor.process_documents([passage["text"]], titles=titles)
            tokens = _tokens(processor, inputs, processor.document_marker_id, "[D]")
            read = [tokens[place] for place in inputs["embedding_mask"][0].nonzero().flatten().tolist()]
        matches = self.index.explain(query, passage["id"], mask)
        if read is not None and max(match.passage_token for match in matches) >= len(read):
            raise ValueError(
                f"Passage `{passage['id']}` has {len(read)} tokens, fewer than in the index: its text or the "
                "processor has changed since it was embedded."
            )
        return [
            {
                "query_token": asked[match.query_token],
                "passage_token": None if read is None else read[match.passage_token],
                "similarity": match.similarity,
            }
            for match in matches
        ]


def _tokens(processor, inputs, marker_id, marker):
    """The tokens of one text, as strings."""
    ids = inputs["input_ids"][0].tolist()
    tokens = processor.tokenizer.convert_ids_to_tokens(ids)
    return [tokens[0], marker if ids[1] == marker_id else tokens[1], *tokens[2:]]


__all__ = ["Retriever"]
