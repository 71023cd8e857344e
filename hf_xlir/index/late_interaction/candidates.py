"""Which passages to score for a query, from some of their tokens: pure tensors."""

from typing import NamedTuple

import torch

from .rerank import similarities, take_rows


TOKENS_PER_BLOCK = 2**13
CELLS_SAMPLED = 2**11
MOST_TOKENS = 2**62  # that a limit can be compared with as an int64
REFERENCE_DEPTH = 3  # what a query token finds usually: its score at this multiple of the number of cells visited


class CellLists(NamedTuple):
    r"""
    The tokens in each centroid's cell, cell after cell.

    Args:
        cell_offsets (`torch.LongTensor` of shape `(num_cells + 1,)`):
            Where each cell starts in `passages`, and the end.
        passages (`torch.IntTensor` of shape `(num_tokens,)`):
            The passage of each token.
        positions (`torch.ByteTensor` or `torch.IntTensor` of shape `(num_tokens,)`):
            The token's position in the passage.
    """

    cell_offsets: torch.Tensor
    passages: torch.Tensor
    positions: torch.Tensor


def candidate_passages(query, lists, offsets, records, nbits, n_probe, n_tokens, n_rerank, allowed=None):
    r"""
    The passages that seem best for one query. It visits the cells that can add most to a score; the tokens there are
    scored from their codes, against all of the query; a passage that has no better token there for a query token gets
    the similarity of the best centroid not visited, about the most that it could have had. The last is WARP's idea
    (https://arxiv.org/abs/2501.17788).

    Args:
        query ([`~hf_xlir.index.late_interaction.residual_codec.RotatedQuery`]):
            The query.
        lists ([`CellLists`]):
            The tokens by cells.
        offsets (`torch.LongTensor` of shape `(num_passages + 1,)`):
            Where each passage starts in `records`, and the end.
        records (`torch.ByteTensor` of shape `(num_tokens, record_bytes)`):
            All passages' tokens, from [`~hf_xlir.index.late_interaction.residual_codec.ResidualCodec.encode`].
        nbits (`int`):
            Bits a dimension.
        n_probe (`int`):
            Most cells to visit, for each token of `query`.
        n_tokens (`int`):
            No further cell is visited once so many tokens, for each query token, have been met.
        n_rerank (`int`):
            Number of passages; all are allowed ones. There must be as many.
        allowed (`torch.BoolTensor` of shape `(num_passages,)`, *optional*):
            Which passages may be chosen.

    Returns:
        `torch.LongTensor` of shape `(n_rerank,)`: rows of passages, in no order.
    """
    cells, missing = _visited_cells(query, lists.cell_offsets, n_probe, n_tokens)
    entries = _ranges(lists.cell_offsets[cells], lists.cell_offsets[cells + 1])
    passages, positions = lists.passages.index_select(0, entries), lists.positions.index_select(0, entries)
    if allowed is not None:
        kept = allowed.index_select(0, passages)
        passages, positions = passages[kept], positions[kept]
    places = offsets.index_select(0, passages).add_(positions)
    if len(records) < 2**31:
        places = places.int()  # sorted in half the time
    # In the order of passages, memory is read from its start to its end, and a passage's tokens follow each other
    places, order = places.sort()
    rows, slots = passages.index_select(0, order).unique_consecutive(return_inverse=True)
    best = missing.expand(len(rows), -1).contiguous()
    for start in range(0, len(places), TOKENS_PER_BLOCK):
        block = slice(start, start + TOKENS_PER_BLOCK)
        products = similarities(query, take_rows(records, places[block]), nbits)
        best.scatter_reduce_(0, slots[block, None].expand_as(products), products, "amax")
    rows = rows.long()
    if len(rows) >= n_rerank:
        return rows[(best @ query.scales).topk(n_rerank, sorted=False).indices]
    others = torch.ones(len(offsets) - 1, dtype=torch.bool, device=rows.device) if allowed is None else allowed.clone()
    others[rows] = False
    return torch.cat([rows, others.nonzero().flatten()[: n_rerank - len(rows)]])


def _visited_cells(query, cell_offsets, n_probe, n_tokens):
    """
    The cells to visit, and each query token's best score of a cell that is not visited.

    A cell counts by how far it lies above what each query token finds in many cells, summed over the query: tokens
    that want the same cells then share them instead of each spending its own visits.
    """
    scores = query.cell_scores * query.scales  # (num_cells, query_length)
    num_cells, query_length = len(scores), max(1, int((query.scales > 0).sum()))
    num_visits = min(n_probe * query_length, num_cells)
    gains = (scores - _usual_scores(scores, REFERENCE_DEPTH * num_visits)).clamp_min_(0).sum(dim=1)
    cells = gains.topk(num_visits).indices  # the best first
    sizes = cell_offsets[cells + 1] - cell_offsets[cells]
    cells = cells[sizes.cumsum(dim=0) - sizes < min(n_tokens * query_length, MOST_TOKENS)]
    if len(cells) == num_cells:
        return cells, query.cell_scores.amin(dim=0)
    return cells, query.cell_scores.index_fill(0, cells, -torch.inf).amax(dim=0)


def _usual_scores(scores, rank):
    """The score at some rank among all cells, for each query token; of many cells, estimated from some."""
    step = -(-len(scores) // CELLS_SAMPLED)
    sample = scores[::step].T.contiguous()
    rank = min(-(-rank // step), sample.shape[1])
    return sample.topk(rank, dim=1, sorted=False).values.amin(dim=1)


def _ranges(starts, stops):
    """Whole numbers from each start to before its stop, one range after another."""
    sizes = stops - starts
    shifts = starts - (sizes.cumsum(dim=0) - sizes)
    return shifts.repeat_interleave(sizes) + torch.arange(int(sizes.sum()), device=sizes.device)


__all__ = ["CellLists", "candidate_passages"]
