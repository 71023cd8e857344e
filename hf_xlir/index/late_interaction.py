"""The late-interaction index: the face that a `datasets.Dataset` sees."""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from datasets.search import BaseIndex, BatchedSearchResults, SearchResults

from .checks import check_ids_match, check_k, check_queries
from .embeddings import TokenEmbeddings, load_tokens, save_tokens
from .scoring import TopK, packed_maxsim_scores


INDEX_FORMAT = "hf_xlir.late_interaction_index"
SIMILARITIES_PER_BLOCK = 2**22  # 16 MB of float32 a block: the peak memory of a search, beside the block's vectors
MOST_TOKENS_PER_BLOCK = 2**15
QUERY_TOKENS_PER_BLOCK = 2**10


class TokenMatch(NamedTuple):
    r"""
    The passage token that a query token matched.

    Args:
        query_token (`int`):
            Position in the query's embeddings.
        passage_token (`int`):
            Position among the passage's tokens that count; `embedding_mask.nonzero()` of the processor's output for
            the passage maps it to a position in `input_ids`.
        similarity (`float`):
            Their inner product; the sum over query tokens is the passage's score.
    """

    query_token: int
    passage_token: int
    similarity: float


class LateInteractionIndex(BaseIndex):
    r"""
    Ranks passages by MaxSim over their token vectors, exactly.

    Results are rows: positions in the embeddings, and so in the `datasets.Dataset` that the index is attached to;
    `index.ids[row]` is the passage's id. Vectors may stay on disk: a search reads them block by block. They are used
    as they are, without normalisation.

    Make one with [`~LateInteractionIndex.build`] or [`~LateInteractionIndex.load`].

    Example:
    ```python
    >>> import numpy as np
    >>> from datasets import Dataset
    >>> from hf_xlir.index import LateInteractionIndex, TokenEmbeddings

    >>> passages = Dataset.from_dict({"id": ["a", "b"], "text": ["north", "east"]})
    >>> embeddings = TokenEmbeddings(np.eye(2, dtype="float32"), np.array([1, 1]), ["a", "b"])
    >>> index = LateInteractionIndex.build(embeddings).attach(passages, "colbert")
    >>> scores, examples = passages.get_nearest_examples("colbert", np.array([[0.6, 0.8]]), k=1)
    >>> examples["text"]
    ['east']

    ```
    """

    def __init__(self, embeddings):
        self.embeddings = embeddings

    @classmethod
    def build(cls, embeddings, nbits=None):
        r"""
        An index over token embeddings.

        Args:
            embeddings ([`TokenEmbeddings`]):
                From [`embed_passages`]; kept as they are, memory-mapped or in memory.
            nbits (`int`, *optional*):
                Must be `None`, for exact search: this version has no compressed index.

        Returns:
            [`LateInteractionIndex`].

        Raises:
            ValueError: If there are no passages, a vector has a NaN or infinite value, or `nbits` is given.
        """
        if nbits is not None:
            raise ValueError(
                f"Got nbits={nbits}, but only the exact index exists in this version: leave `nbits` out or `None`."
            )
        if not isinstance(embeddings, TokenEmbeddings):
            raise ValueError(
                f"`embeddings` must be `TokenEmbeddings`, got {type(embeddings).__name__}: embed the passages with a "
                "model that has one vector a token, or use `add_dense_index` for one vector a passage."
            )
        if not len(embeddings):
            raise ValueError("`embeddings` has no passages: there is nothing to index.")
        for start in range(0, len(embeddings.values), MOST_TOKENS_PER_BLOCK):
            finite = np.isfinite(embeddings.values[start : start + MOST_TOKENS_PER_BLOCK]).all(axis=1)
            if not finite.all():
                row = start + int(finite.argmin())
                passage = embeddings.ids[int(np.searchsorted(embeddings.offsets, row, side="right")) - 1]
                raise ValueError(
                    f"The passage `{passage}` has a NaN or infinite value in its vectors: embed it again."
                )
        return cls(embeddings)

    def __len__(self):
        return len(self.embeddings)

    @property
    def ids(self):
        """The passages' ids, in the order of rows."""
        return self.embeddings.ids

    @property
    def embedding_dim(self):
        """Number of dimensions of a vector."""
        return self.embeddings.embedding_dim

    def search(self, query_embeddings, k=10, query_mask=None, allowed_ids=None):
        r"""
        The best passages for one query.

        Args:
            query_embeddings (`torch.FloatTensor` or `numpy.ndarray` of shape `(query_length, embedding_dim)`):
                Token vectors; a leading axis of 1 is accepted.
            k (`int`, *optional*, defaults to 10):
                Number of passages; all of them, ranked, if there are fewer.
            query_mask (`torch.BoolTensor` or `numpy.ndarray` of shape `(query_length,)`, *optional*):
                `True` for tokens that count. All count by default.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages. The fewer, the faster.

        Returns:
            `datasets.search.SearchResults`: `scores`, falling, and `indices`, the passages' rows; of equal scores the
            lowest row comes first.

        Raises:
            ValueError: If shapes do not fit, a vector that counts has a NaN or infinite value, no token counts, `k` is
                below 1, or an allowed id is unknown.
        """
        queries, mask = check_queries(query_embeddings, query_mask, self.embedding_dim, single=True)
        best = self._rank(queries, mask, check_k(k), self._allowed_rows(allowed_ids))
        return SearchResults(best.scores[0].numpy(), best.rows[0].numpy())

    def search_batch(self, queries, k=10, query_mask=None, allowed_ids=None):
        r"""
        The best passages for each of several queries; see [`~LateInteractionIndex.search`].

        Args:
            queries (`torch.FloatTensor` or `numpy.ndarray` of shape `(num_queries, query_length, embedding_dim)`):
                Token vectors.
            k (`int`, *optional*, defaults to 10):
                Number of passages a query.
            query_mask (`torch.BoolTensor` or `numpy.ndarray` of shape `(num_queries, query_length)`, *optional*):
                `True` for tokens that count. All count by default.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages, for every query.

        Returns:
            `datasets.search.BatchedSearchResults`: `total_scores` and `total_indices`, each of shape `(num_queries,
            k)`.
        """
        queries, mask = check_queries(queries, query_mask, self.embedding_dim, single=False)
        best = self._rank(queries, mask, check_k(k), self._allowed_rows(allowed_ids))
        return BatchedSearchResults(best.scores.numpy(), best.rows.numpy())

    def explain(self, query_embeddings, id, query_mask=None):
        r"""
        Which token of a passage each token of a query matched.

        Args:
            query_embeddings (`torch.FloatTensor` or `numpy.ndarray` of shape `(query_length, embedding_dim)`):
                Token vectors of one query.
            id (`str`):
                The passage's id.
            query_mask (`torch.BoolTensor` or `numpy.ndarray` of shape `(query_length,)`, *optional*):
                `True` for tokens that count. All count by default.

        Returns:
            `list[TokenMatch]`: One for each query token that counts, in order.

        Raises:
            ValueError: If the id is unknown, or as for [`~LateInteractionIndex.search`].
        """
        queries, mask = check_queries(query_embeddings, query_mask, self.embedding_dim, single=True)
        row = self._allowed_rows([id])[0]
        similarities, matches = (queries[0] @ self._vectors(row, row + 1).T).max(dim=1)
        return [
            TokenMatch(position, int(matches[position]), float(similarities[position]))
            for position in mask[0].nonzero().flatten().tolist()
        ]

    def attach(self, dataset, name):
        r"""
        Make `dataset.get_nearest_examples(name, query_embeddings, k)` search this index.

        Operations that make another dataset of `dataset`, such as `map`, do not carry the index along.

        Args:
            dataset (`datasets.Dataset`):
                The passages, in the order in which they were embedded.
            name (`str`):
                What to call the index.

        Returns:
            [`LateInteractionIndex`]: This index.

        Raises:
            ValueError: If the dataset has another number of rows, or other ids or another order of them.
        """
        check_ids_match(dataset, self.ids)
        dataset._indexes[name] = self
        return self

    def save(self, path):
        r"""
        Write the index to a folder, all at once: until the end, readers of an index already there see the old one.

        Args:
            path (`str` or `os.PathLike`):
                The folder, made if absent.
        """
        save_tokens(self.embeddings, path, INDEX_FORMAT, nbits=None)

    @classmethod
    def load(cls, path):
        r"""
        Open an index written by [`~LateInteractionIndex.save`]; vectors stay on disk until they are searched.

        Args:
            path (`str` or `os.PathLike`):
                The folder.

        Returns:
            [`LateInteractionIndex`].

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it holds no such index, or one of its files is missing or truncated.
        """
        return cls(load_tokens(path, INDEX_FORMAT))

    @cached_property
    def _row_of_id(self):
        return {id: row for row, id in enumerate(self.ids)}

    def _allowed_rows(self, allowed_ids):
        """Rows of the given ids, rising, or `None` for all rows."""
        if allowed_ids is None:
            return None
        if isinstance(allowed_ids, str):
            raise ValueError(f"`allowed_ids` must be several ids, got one string: use `[{allowed_ids!r}]`.")
        ids = set(allowed_ids)
        unknown = sorted(str(id) for id in ids if id not in self._row_of_id)
        if unknown:
            raise ValueError(f"{len(unknown)} ids are not in this index, such as {unknown[:5]}.")
        return np.array(sorted(self._row_of_id[id] for id in ids), dtype=np.int64)

    def _vectors(self, start, stop):
        """Token vectors of the passages in rows `start` to `stop`, packed, float32."""
        offsets = self.embeddings.offsets
        return torch.from_numpy(self.embeddings.values[offsets[start] : offsets[stop]]).float()

    def _gathered_vectors(self, rows):
        """Token vectors of the passages in some rows, packed, float32."""
        lengths = self.embeddings.lengths[rows]
        first_token = np.cumsum(lengths) - lengths
        tokens = np.repeat(self.embeddings.offsets[rows] - first_token, lengths) + np.arange(lengths.sum())
        return torch.from_numpy(self.embeddings.values[tokens]).float()

    def _rank(self, queries, mask, k, rows):
        """The best `k` of the given rows, a [`TopK`]: every block of vectors is read once for all queries."""
        queries = queries.masked_fill(~mask[:, :, None], 0)
        queries = queries[:, mask.any(dim=0)]  # columns that no query counts
        chunks = queries.split(max(1, QUERY_TOKENS_PER_BLOCK // queries.shape[1]))
        best = [TopK.empty(len(chunk)) for chunk in chunks]
        most_tokens = SIMILARITIES_PER_BLOCK // (len(chunks[0]) * queries.shape[1])
        most_tokens = min(most_tokens, MOST_TOKENS_PER_BLOCK)
        for block_rows, vectors, lengths in self._blocks(rows, most_tokens):
            for i, chunk in enumerate(chunks):
                best[i] = best[i].merge(packed_maxsim_scores(chunk, vectors, lengths), block_rows, k)
        return TopK(*(torch.cat(parts) for parts in zip(*best, strict=True)))

    def _blocks(self, rows, most_tokens):
        """Yield rows, their packed token vectors and their lengths, some passages at a time."""
        everything = rows is None
        lengths = self.embeddings.lengths if everything else self.embeddings.lengths[rows]
        ends = np.cumsum(lengths)
        start = 0
        while start < len(lengths):
            before = ends[start] - lengths[start]
            stop = max(start + 1, int(np.searchsorted(ends, before + most_tokens, side="right")))
            if everything:
                block_rows, vectors = np.arange(start, stop), self._vectors(start, stop)
            else:
                block_rows, vectors = rows[start:stop], self._gathered_vectors(rows[start:stop])
            yield torch.from_numpy(block_rows), vectors, torch.from_numpy(lengths[start:stop].astype(np.int64))
            start = stop


__all__ = ["LateInteractionIndex", "TokenMatch"]
