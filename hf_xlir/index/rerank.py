"""MaxSim of chosen passages over compressed tokens: pure tensors."""

import torch

from .residual_codec import unpack


TOKENS_PER_BLOCK = 2**13


def rerank_scores(query, rows, offsets, tokens, nbits):
    r"""
    MaxSim of one query and some passages, from their codes.

    Passages are taken by length, so that a block of them is nearly rectangular; the places that are left repeat a
    passage's last token, which changes no maximum.

    Args:
        query ([`~hf_xlir.index.residual_codec.RotatedQuery`]):
            The query.
        rows (`torch.LongTensor` of shape `(num_rows,)`):
            The passages.
        offsets (`torch.LongTensor` of shape `(num_passages + 1,)`):
            Where each passage starts in `tokens`, and the end.
        tokens ([`~hf_xlir.index.residual_codec.EncodedTokens`]):
            All passages' tokens.
        nbits (`int`):
            Bits a dimension.

    Returns:
        `torch.FloatTensor` of shape `(num_rows,)`.
    """
    starts = offsets[rows]
    lengths, order = (offsets[rows + 1] - starts).sort()
    starts, scores = starts[order], query.scales.new_empty(len(rows))
    for first, last in _blocks(lengths.tolist()):
        longest = lengths[last - 1]
        places = torch.arange(int(longest), device=rows.device)
        places = torch.minimum(places, lengths[first:last, None] - 1).add_(starts[first:last, None])  # (rows, longest)
        best = similarities(query, places.flatten(), tokens, nbits).view(*places.shape, -1).amax(dim=1)
        scores[order[first:last]] = best @ query.scales
    return scores


def similarities(query, places, tokens, nbits):
    r"""
    Inner products of some tokens and a query's tokens, in units of `query.scales`.

    Args:
        query ([`~hf_xlir.index.residual_codec.RotatedQuery`]):
            The query.
        places (`torch.LongTensor` of shape `(num_tokens,)`):
            Positions in `tokens`.
        tokens ([`~hf_xlir.index.residual_codec.EncodedTokens`]):
            All tokens.
        nbits (`int`):
            Bits a dimension.

    Returns:
        `torch.FloatTensor` of shape `(num_tokens, query_length)`.
    """
    levels = unpack(_take_rows(tokens.codes, places), nbits)
    products = integer_products(levels, query.levels).add(query.shifts)
    centroid_parts = query.cell_scores.index_select(0, tokens.cells[places].int())
    return centroid_parts.addcmul_(products, tokens.scales[places].float()[:, None])


def integer_products(levels, query_levels):
    r"""
    Matrix product of int8 matrices, exact; int32, or float32 where there is no fast one.

    Args:
        levels (`torch.CharTensor` of shape `(num_tokens, rotated_dim)`):
            Of tokens.
        query_levels (`torch.CharTensor` of shape `(rotated_dim, query_length)`):
            Of a query.
    """
    if levels.is_cuda or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return levels.float() @ query_levels.float()
    return torch._int_mm(levels, query_levels)


def _take_rows(codes, places):
    if codes.shape[1] % 8 == 0:  # torch copies rows of bytes one byte at a time
        return codes.view(torch.int64).index_select(0, places).view(torch.uint8)
    return codes.index_select(0, places)


def _blocks(lengths):
    """Ranges of passages, whose lengths rise, of about `TOKENS_PER_BLOCK` places."""
    first = 0
    for row, length in enumerate(lengths):
        if row > first and (row + 1 - first) * length > TOKENS_PER_BLOCK:
            yield first, row
            first = row
    if lengths:
        yield first, len(lengths)


__all__ = ["rerank_scores", "similarities"]
