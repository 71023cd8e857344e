"""Token vectors of a fixed list of passages, uncompressed or compressed, that can be searched: no ids, no files."""

from functools import cached_property

import numpy as np
import torch

from ..scoring import TopK, packed_maxsim_scores
from .codec import CentroidAssigner, split_records
from .search import CellLists, candidate_passages, map_in_threads, rerank_scores, similarities


SIMILARITIES_PER_BLOCK = 2**22  # 16 MB of float32, the peak memory of an exact search beside the block's vectors
MOST_TOKENS_PER_BLOCK = 2**15
QUERY_TOKENS_PER_BLOCK = 2**10
TOKENS_PER_BLOCK = 2**16  # of those that are compressed together


class ExactTokens:
    """
    Uncompressed vectors, searched by MaxSim block by block. Immutable.

    `arrays` has `values`, of shape `(num_tokens, embedding_dim)`, and `offsets`, int64 of shape `(num_passages + 1,)`:
    where each passage starts in `values`, and the end. They are in memory or memory-mapped. Blocks are scored on
    `device`.
    """

    def __init__(self, arrays, device="cpu"):
        self.arrays, self.device = arrays, torch.device(device)

    def __len__(self):
        return len(self.arrays["offsets"]) - 1

    @property
    def num_tokens(self):
        """Number of token vectors."""
        return len(self.arrays["values"])

    @property
    def nbytes(self):
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def to(self, device):
        """The segment with its blocks scored on a device, such as `"cuda"`."""
        return ExactTokens(self.arrays, device)

    def search(self, queries, query_mask, k, n_probe=None, n_tokens=None, n_rerank=None, allowed=None):
        """
        The best `k` passages per query, a `TopK`, or as many as are allowed; every block is read once for all.

        Shapes: `queries` `(num_queries, query_length, embedding_dim)`, `query_mask` without the last axis, and
        `allowed` `(num_passages,)`. All passages are scored, so that the limits of the search do nothing.
        """
        if not len(queries):
            return TopK.empty(0)
        rows = None if allowed is None else allowed.nonzero().flatten().numpy()
        queries = queries.masked_fill(~query_mask[:, :, None], 0)
        queries = queries[:, query_mask.any(dim=0)].to(self.device)  # without columns that no query counts
        chunks = queries.split(max(1, QUERY_TOKENS_PER_BLOCK // queries.shape[1]))
        best = [TopK.empty(len(chunk)) for chunk in chunks]
        most_tokens = SIMILARITIES_PER_BLOCK // (len(chunks[0]) * queries.shape[1])
        most_tokens = min(most_tokens, MOST_TOKENS_PER_BLOCK)
        for block_rows, vectors, lengths in self._blocks(rows, most_tokens):
            vectors, lengths = vectors.to(self.device), lengths.to(self.device)
            for i, chunk in enumerate(chunks):
                best[i] = best[i].merge(packed_maxsim_scores(chunk, vectors, lengths).cpu(), block_rows, k)
        return TopK(*(torch.cat(parts) for parts in zip(*best, strict=True)))

    def similarities(self, query, row):
        """Inner products of a query's tokens and a passage's: float32 `(query_length, length of the passage)`."""
        offsets = self.arrays["offsets"]
        return query @ torch.from_numpy(self.arrays["values"][offsets[row] : offsets[row + 1]]).float().T

    def _blocks(self, rows, most_tokens):
        """Yield rows, their packed token vectors and their lengths, some passages at a time."""
        values, offsets = self.arrays["values"], self.arrays["offsets"]
        lengths = np.diff(offsets)
        lengths = lengths if rows is None else lengths[rows]
        ends = np.cumsum(lengths)
        start = 0
        while start < len(lengths):
            before = ends[start] - lengths[start]
            stop = max(start + 1, int(np.searchsorted(ends, before + most_tokens, side="right")))
            block = slice(start, stop)
            if rows is None:
                block_rows, vectors = np.arange(start, stop), values[offsets[start] : offsets[stop]]
            else:
                block_rows, vectors = rows[block], values[ranges(offsets[rows[block]], lengths[block])]
            yield torch.from_numpy(block_rows), torch.from_numpy(vectors).float(), torch.from_numpy(lengths[block])
            start = stop


class CompressedTokens:
    """
    Compressed vectors. Immutable; several segments may share a codec, which is saved apart.

    A search chooses passages by those of their tokens that are near a query token ([`~.search.candidate_passages`]),
    and scores all tokens of the chosen passages ([`~.search.rerank_scores`]).

    `arrays` is all there is to save, in memory or memory-mapped (copy-on-write, since torch refuses read-only arrays):

    - `offsets`, int64 `(num_passages + 1,)`: where each passage starts among the tokens, and the end;
    - `records`, uint8 `(num_tokens, record_bytes)`, from [`~.codec.ResidualCodec.encode`];
    - `cell_offsets`, int64 `(num_cells + 1,)`, `cell_passages`, int32 `(num_tokens,)`, and `cell_positions`, uint8, or
      int32 if a passage has more than 256 tokens: [`~.search.CellLists`].
    """

    def __init__(self, codec, arrays):
        self.codec, self.arrays = codec, arrays
        self.device = codec.centroids.device

    @classmethod
    def build(cls, embeddings, codec, assigner=None):
        """
        Compress the passages of [`TokenEmbeddings`], which an index can hold, some thousand vectors at a time.

        `assigner` is the codec's, if there is one already.
        """
        assigner = assigner or CentroidAssigner(codec)
        num_tokens = len(embeddings.values)
        arrays = {"offsets": embeddings.offsets, "records": np.empty((num_tokens, codec.record_bytes), np.uint8)}
        for start in range(0, num_tokens, TOKENS_PER_BLOCK):
            block = slice(start, min(start + TOKENS_PER_BLOCK, num_tokens))
            vectors = torch.from_numpy(np.asarray(embeddings.values[block], dtype=np.float32))
            arrays["records"][block] = codec.encode(vectors, assigner(vectors)).numpy()
        arrays |= cell_lists(arrays["records"], arrays["offsets"], len(codec.centroids))
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
        """
        The best `k` passages per query, a `TopK`, or as many as are allowed; shapes as of [`ExactTokens.search`].

        The limits are those of [`~.search.SearchLimits`]. Where at most `n_rerank` passages are allowed, all of them
        are scored.
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

    def similarities(self, query, row):
        """Inner products of a query's tokens and a passage's: float32 `(query_length, length of the passage)`."""
        start, stop = self.arrays["offsets"][row : row + 2].tolist()
        prepared = self.codec.rotate_query(query.to(self.device))
        products = similarities(prepared, self._records[start:stop], self.codec.nbits) * prepared.scales
        return products[:, : len(query)].T.cpu()

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


def cell_lists(records, offsets, num_cells):
    """A segment's arrays that say which tokens each cell has, from its records and the passages' offsets."""
    cells = split_records(torch.from_numpy(records))[0].numpy()
    order = np.argsort(cells, kind="stable")  # int16: a radix sort
    passages, lengths = np.empty(len(cells), np.int32), np.diff(offsets)
    passages[:] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[order]
    positions = np.empty(len(cells), np.uint8 if lengths.max(initial=0) <= 256 else np.int32)
    for start in range(0, len(order), TOKENS_PER_BLOCK):
        block = slice(start, start + TOKENS_PER_BLOCK)
        positions[block] = order[block] - offsets[passages[block]]
    cell_offsets = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=num_cells))])
    return {"cell_offsets": cell_offsets, "cell_passages": passages, "cell_positions": positions}


def ranges(starts, lengths):
    """Whole numbers that rise from each start, as many as its length, one range after another."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


__all__ = ["CompressedTokens", "ExactTokens", "cell_lists", "ranges"]
