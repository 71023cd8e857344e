"""Compressed token vectors of a fixed set of passages, which can be searched: rows and arrays, no ids and no files."""

from functools import cached_property

import numpy as np
import torch

from ..scoring import TopK
from .candidates import CellLists, candidate_passages
from .clustering import CentroidAssigner
from .rerank import rerank_scores, similarities
from .residual_codec import split_records
from .threads import map_in_threads


TOKENS_PER_BLOCK = 2**16


class CompressedTokens:
    r"""
    An immutable segment of an index: passages `0` to `len(segment) - 1`, each a row, their token vectors compressed by
    a codec that several segments may share.

    A search has two steps: passages are chosen by those of their tokens that are near a query token
    ([`~hf_xlir.index.late_interaction.candidates.candidate_passages`]), and all tokens of those passages are scored
    ([`~hf_xlir.index.late_interaction.rerank.rerank_scores`]).

    Args:
        codec ([`~hf_xlir.index.late_interaction.residual_codec.ResidualCodec`]):
            What the codes mean. Saved apart, by [`~ResidualCodec.arrays`].
        arrays (`dict[str, numpy.ndarray]`):
            What a segment is, to be saved and loaded as it is, in memory or memory-mapped (copy-on-write, since torch
            does not take read-only arrays):

            - `offsets`, int64 `(num_passages + 1,)`: where each passage starts among the tokens, and the end;
            - `records`, uint8 `(num_tokens, record_bytes)`: from
              [`~hf_xlir.index.late_interaction.residual_codec.ResidualCodec.encode`];
            - `cell_offsets`, int64 `(num_cells + 1,)`, `cell_passages`, int32 `(num_tokens,)`, and `cell_positions`,
              uint8, or int32 if a passage has more than 256 tokens: [`~.candidates.CellLists`].
    """

    def __init__(self, codec, arrays):
        self.codec, self.arrays = codec, arrays
        self.device = codec.centroids.device

    @classmethod
    def build(cls, embeddings, codec, allocate=np.empty, assigner=None):
        r"""
        Compress passages, some thousand vectors at a time.

        Args:
            embeddings ([`~hf_xlir.index.TokenEmbeddings`]):
                The passages, in memory or memory-mapped.
            codec ([`~hf_xlir.index.late_interaction.residual_codec.ResidualCodec`]):
                From [`~hf_xlir.index.late_interaction.clustering.train_codec`], or another segment's.
            allocate (`Callable[[tuple, numpy.dtype], numpy.ndarray]`, *optional*, defaults to `numpy.empty`):
                Makes the large arrays from shape and type; one that maps files keeps them out of memory.
            assigner ([`~hf_xlir.index.late_interaction.clustering.CentroidAssigner`], *optional*):
                Of this codec, if there is one already.

        Returns:
            [`CompressedTokens`].

        Raises:
            ValueError: If the codec is for another dimension, or a vector has a NaN, an infinite value, or a norm
                above 60,000.
        """
        if embeddings.embedding_dim != codec.embedding_dim:
            raise ValueError(
                f"The embeddings have {embeddings.embedding_dim} dimensions, the codec is for {codec.embedding_dim}: "
                "embed with the model whose vectors the codec was trained on."
            )
        assigner = assigner or CentroidAssigner(codec)
        num_tokens = len(embeddings.values)
        arrays = {
            "offsets": embeddings.offsets,
            "records": allocate((num_tokens, codec.record_bytes), np.uint8),
        }
        for start in range(0, num_tokens, TOKENS_PER_BLOCK):
            block = slice(start, min(start + TOKENS_PER_BLOCK, num_tokens))
            vectors = torch.from_numpy(np.asarray(embeddings.values[block], dtype=np.float32))
            _check_vectors(vectors, start, embeddings)
            arrays["records"][block] = codec.encode(vectors, assigner(vectors)).numpy()
        arrays |= cell_lists(arrays["records"], arrays["offsets"], len(codec.centroids), allocate)
        return cls(codec, arrays)

    def __reduce__(self):
        return CompressedTokens, (self.codec, self.arrays)  # without the tensors of the same arrays

    def __len__(self):
        return len(self.arrays["offsets"]) - 1

    @property
    def num_tokens(self):
        """Number of token vectors."""
        return len(self.arrays["records"])

    @property
    def nbytes(self):
        """Bytes of all arrays; the codec's, which segments share, come on top."""
        return sum(array.nbytes for array in self.arrays.values())

    def to(self, device):
        """The segment on a device, such as `"cuda"`: its arrays are copied there at the first search."""
        return CompressedTokens(self.codec.to(device), self.arrays)

    def search(self, queries, query_mask, k, n_probe, n_tokens, n_rerank, allowed=None):
        r"""
        The best passages for some queries.

        Args:
            queries (`torch.FloatTensor` of shape `(num_queries, query_length, embedding_dim)`):
                Token vectors.
            query_mask (`torch.BoolTensor` of shape `(num_queries, query_length)`):
                `True` for tokens that count; at least one a query.
            k (`int`):
                Number of passages.
            n_probe (`int`):
                Most cells to visit, for each query token; those that are alike count as one.
            n_tokens (`int`):
                No further cell is visited once so many tokens, for each query token, have been met.
            n_rerank (`int`):
                Passages scored from their codes, at least `k`. Where no more than these are allowed, all of them are,
                and the centroids are not asked.
            allowed (`torch.BoolTensor` of shape `(num_passages,)`, *optional*):
                `True` for the passages that may be returned. By default all.

        Returns:
            [`~hf_xlir.index.scoring.TopK`] with `k` columns, or with as many as passages are allowed.
        """
        nbits, n_rerank = self.codec.nbits, max(n_rerank, k)
        num_allowed = len(self) if allowed is None else int(allowed.sum())
        everything = None
        if num_allowed <= n_rerank:
            everything = torch.arange(len(self)) if allowed is None else allowed.nonzero().flatten()
            everything = everything.to(self.device)
        elif allowed is not None:
            allowed = allowed.to(self.device)
            # As many allowed tokens are met as without a restriction
            n_probe, n_tokens = (-(-limit * len(self) // num_allowed) for limit in (n_probe, n_tokens))

        def best_of(query):
            query = self.codec.rotate_query(query.to(self.device))
            rows = everything
            if rows is None:
                shorter = self.codec.merge_alike(query)
                rows = candidate_passages(
                    shorter, self._lists, self._offsets, self._records, nbits, n_probe, n_tokens, n_rerank, allowed
                )
            return _best(self._scores(query, rows), rows, k)

        queries = [query[mask] for query, mask in zip(queries, query_mask, strict=True)]
        self._records, self._offsets, self._lists  # noqa: B018 - made once, not by each thread
        best = map_in_threads(best_of, queries) if self.device.type == "cpu" else list(map(best_of, queries))
        if not best:
            return TopK.empty(0)
        return TopK(*(torch.stack(parts) for parts in zip(*best, strict=True)))

    def score(self, query, rows):
        r"""
        MaxSim of one query and the passages in some rows.

        Args:
            query (`torch.FloatTensor` of shape `(query_length, embedding_dim)`):
                Tokens that count.
            rows (`torch.LongTensor` of shape `(num_rows,)`):
                The passages.

        Returns:
            `torch.FloatTensor` of shape `(num_rows,)`.
        """
        return self._scores(self.codec.rotate_query(query.to(self.device)), rows.to(self.device)).cpu()

    def similarities(self, query, row):
        r"""
        Inner products of a query's tokens and a passage's tokens, of which a score is made: float32 of shape
        `(query_length, length of the passage)`.
        """
        start, stop = self.arrays["offsets"][row : row + 2].tolist()
        prepared = self.codec.rotate_query(query.to(self.device))
        products = similarities(prepared, self._records[start:stop], self.codec.nbits) * prepared.scales
        return products[:, : len(query)].T.cpu()

    def decode(self, rows):
        r"""
        Vectors of the passages in some rows, packed: float32 of shape `(sum of their lengths, embedding_dim)`.

        Args:
            rows (`numpy.ndarray` of shape `(num_rows,)`):
                The passages.
        """
        offsets = self.arrays["offsets"]
        lengths = offsets[rows + 1] - offsets[rows]
        places = np.repeat(offsets[rows] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        return self.codec.decode(torch.from_numpy(self.arrays["records"][places]).to(self.device)).cpu()

    @cached_property
    def _records(self):
        return self._tensor("records")

    @cached_property
    def _offsets(self):
        return self._tensor("offsets")

    @cached_property
    def _lists(self):
        return CellLists(*(self._tensor(name) for name in ("cell_offsets", "cell_passages", "cell_positions")))

    def _tensor(self, name):
        return torch.from_numpy(self.arrays[name]).to(self.device)

    def _scores(self, query, rows):
        return rerank_scores(query, rows, self._offsets, self._records, self.codec.nbits)


def _best(scores, rows, k):
    """The `k` best on the CPU; of equal scores the lowest row first."""
    rows, order = rows.sort()
    scores, order = scores[order].sort(descending=True, stable=True)
    return scores[:k].cpu(), rows[order[:k]].cpu()


def _check_vectors(vectors, start, embeddings):
    norms = vectors.norm(dim=1)
    wrong = ~(norms <= 60_000)  # NaN too
    if wrong.any():
        token = start + int(wrong.int().argmax())
        passage = embeddings.ids[int(np.searchsorted(embeddings.offsets, token, side="right")) - 1]
        raise ValueError(
            f"The passage `{passage}` has a vector with a NaN or infinite value, or a norm above 60,000: embed it "
            "again, or normalise its vectors."
        )


def cell_lists(records, offsets, num_cells, allocate=np.empty):
    """A segment's arrays that say which tokens each cell has, from its records and the passages' offsets."""
    cells = split_records(torch.from_numpy(records))[0].numpy()
    order = np.argsort(cells, kind="stable")  # int16: a radix sort
    passages, lengths = allocate((len(cells),), np.int32), np.diff(offsets)
    passages[:] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[order]
    positions = allocate((len(cells),), np.uint8 if lengths.max(initial=0) <= 256 else np.int32)
    for start in range(0, len(order), TOKENS_PER_BLOCK):
        block = slice(start, start + TOKENS_PER_BLOCK)
        positions[block] = order[block] - offsets[passages[block]]
    cell_offsets = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=num_cells))])
    return {"cell_offsets": cell_offsets, "cell_passages": passages, "cell_positions": positions}


__all__ = ["CompressedTokens", "cell_lists"]
