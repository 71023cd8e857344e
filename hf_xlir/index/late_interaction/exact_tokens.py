"""Uncompressed token vectors of a fixed set of passages, which can be searched: rows and arrays, no ids, no files."""

import numpy as np
import torch

from ..scoring import TopK, packed_maxsim_scores


SIMILARITIES_PER_BLOCK = 2**22  # 16 MB of float32 a block: the peak memory of a search, beside the block's vectors
MOST_TOKENS_PER_BLOCK = 2**15
QUERY_TOKENS_PER_BLOCK = 2**10


class ExactTokens:
    r"""
    An immutable segment of an index, searched by MaxSim over the vectors themselves, block by block. It has the
    methods of [`~.compressed_tokens.CompressedTokens`], whose place it takes where an index is small.

    Args:
        arrays (`dict[str, numpy.ndarray]`):
            `values`, of shape `(num_tokens, embedding_dim)`, and `offsets`, int64 of shape `(num_passages + 1,)`:
            where each passage starts in them, and the end. In memory or memory-mapped.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Where blocks are scored.
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
        r"""
        The best passages for some queries; every block of vectors is read once for all of them.

        Args:
            queries (`torch.FloatTensor` of shape `(num_queries, query_length, embedding_dim)`):
                Token vectors.
            query_mask (`torch.BoolTensor` of shape `(num_queries, query_length)`):
                `True` for tokens that count; at least one a query.
            k (`int`):
                Number of passages.
            n_probe, n_tokens, n_rerank (*optional*):
                Not used: all passages are scored.
            allowed (`torch.BoolTensor` of shape `(num_passages,)`, *optional*):
                `True` for the passages that may be returned. By default all.

        Returns:
            [`~hf_xlir.index.scoring.TopK`] with `k` columns, or with as many as passages are allowed.
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


def ranges(starts, lengths):
    r"""Whole numbers that rise from each start, as many as its length, one range after another."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


__all__ = ["ExactTokens", "ranges"]
