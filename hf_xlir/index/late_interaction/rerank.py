"""MaxSim of chosen passages over compressed tokens: pure tensors."""

import numpy as np
import torch

from .bit_packing import unpack
from .residual_codec import split_records


TOKENS_PER_BLOCK = 2**13


def rerank_scores(query, rows, offsets, records, nbits):
    r"""
    MaxSim of one query and some passages, from their codes.

    Passages are taken by length, so that a block of them is nearly rectangular; the places that are left repeat a
    passage's last token, which changes no maximum.

    Args:
        query ([`~hf_xlir.index.late_interaction.residual_codec.RotatedQuery`]):
            The query.
        rows (`torch.LongTensor` of shape `(num_rows,)`):
            The passages.
        offsets (`torch.LongTensor` of shape `(num_passages + 1,)`):
            Where each passage starts in `records`, and the end.
        records (`torch.ByteTensor` of shape `(num_tokens, record_bytes)`):
            All passages' tokens, from [`~hf_xlir.index.late_interaction.residual_codec.ResidualCodec.encode`].
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
        products = similarities(query, take_rows(records, places.flatten()), nbits)
        best = products.view(*places.shape, -1).amax(dim=1)
        scores[order[first:last]] = best @ query.scales
    return scores


def similarities(query, records, nbits):
    r"""
    Inner products of some tokens and a query's tokens, in units of `query.scales`.

    Args:
        query ([`~hf_xlir.index.late_interaction.residual_codec.RotatedQuery`]):
            The query.
        records (`torch.ByteTensor` of shape `(num_tokens, record_bytes)`):
            The tokens.
        nbits (`int`):
            Bits a dimension.

    Returns:
        `torch.FloatTensor` of shape `(num_tokens, query_length)`.
    """
    cells, scales, codes = split_records(records)
    products = integer_products(unpack(codes, nbits), query.levels).add(query.shifts)
    return query.cell_scores.index_select(0, cells.int()).addcmul_(products, scales.float()[:, None])


def take_rows(records, places):
    r"""
    Some rows of a matrix of bytes.

    Args:
        records (`torch.ByteTensor` of shape `(num_rows, num_bytes)`):
            The matrix, contiguous.
        places (`torch.LongTensor` of shape `(num_places,)`):
            Which rows.
    """
    if records.is_cuda:
        return records.index_select(0, places)
    # On a CPU torch copies bytes one at a time; NumPy copies what it takes for scalars of many bytes at once
    rows = records.numpy().view(f"V{records.shape[1]}")[:, 0].take(places.numpy(), mode="clip")
    return torch.from_numpy(rows.view(np.uint8).reshape(len(places), records.shape[1]))


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


def _blocks(lengths):
    """Ranges of passages, whose lengths rise, of about `TOKENS_PER_BLOCK` places."""
    first = 0
    for row, length in enumerate(lengths):
        if row > first and (row + 1 - first) * length > TOKENS_PER_BLOCK:
            yield first, row
            first = row
    if lengths:
        yield first, len(lengths)


__all__ = ["rerank_scores", "similarities", "take_rows"]
