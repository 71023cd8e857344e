"""How a segment is searched: limits of a search, candidate passages, their scores, and threads; pure tensors."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from ...utils.checks import check_choice, check_integer
from .codec import split_records, unpack


TOKENS_PER_BLOCK = 2**13
CELLS_SAMPLED = 2**11
EVERYTHING = 2**40
MOST_TOKENS = 2**62  # a limit that fits in an int64
REFERENCE_DEPTH = 3  # what a query token usually finds: its score at this multiple of the number of visited cells


class SearchLimits(NamedTuple):
    r"""
    What a search of compressed passages may look at, in each segment of an index.

    Args:
        n_probe (`int`):
            Most centroids' cells to visit per query token. Query tokens of a cosine of 0.9 or more count as one.
        n_tokens (`int`):
            No further cell is visited once this many tokens per query token have been met.
        n_rerank (`int`):
            The rerank depth: passages scored from all their codes, at least `k`.
    """

    n_probe: int
    n_tokens: int
    n_rerank: int


# R@10 / R@100 against exact MaxSim, with 5,000 to 50,000 passages at 4 bits and questions filled up to 32 tokens with
# [MASK] (`benchmarks/late_interaction.py`):
#
#                                      fast           balanced       exact
# with a sample of queries             .96 / .89      .97 / .95      .97 / .96
# with pieces of 20,000 passages       .95 / .87      .97 / .94      .98 / .96
# without, 20,000 passages             .76 / .71      .84 / .81      .96 / .94
PRESETS = {
    "fast": SearchLimits(16, 10**9, 500),
    "balanced": SearchLimits(32, 10**9, 1000),
    "exact": SearchLimits(EVERYTHING, EVERYTHING, EVERYTHING),  # all passages are scored
}


def search_limits(preset, n_probe=None, n_tokens=None, n_rerank=None):
    """The [`SearchLimits`] of a preset, with those that are given in place of the preset's; a `ValueError` if odd."""
    given = {"n_probe": n_probe, "n_tokens": n_tokens, "n_rerank": n_rerank}
    given = {name: check_integer(name, value) for name, value in given.items() if value is not None}
    return PRESETS[check_choice("preset", preset, PRESETS)]._replace(**given)


class CellLists(NamedTuple):
    """
    The posting lists: the tokens of each centroid's cell, cell after cell.

    Cell `i` owns the entries `cell_offsets[i]` to `cell_offsets[i + 1]`. An entry is a token's passage, int32, and its
    position in the passage, uint8 or int32.
    """

    cell_offsets: torch.Tensor
    passages: torch.Tensor
    positions: torch.Tensor


def candidate_passages(query, lists, offsets, records, nbits, n_probe, n_tokens, n_rerank, allowed=None):
    """
    The rows of `n_rerank` passages that seem best for one query, in no order. At least as many must be allowed.

    The cells that can add most to a score are visited, and the tokens there are scored against all of the query. A
    passage without a token there for some query token gets the similarity of the best cell that is not visited, about
    the most that it could have had: WARP's idea (https://huggingface.co/papers/2501.17788).

    `offsets`, `(num_passages + 1,)`, says where each passage starts in `records`, `(num_tokens, record_bytes)`;
    `allowed`, `(num_passages,)`, which passages may be chosen. The limits are those of [`SearchLimits`].
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


def rerank_scores(query, rows, offsets, records, nbits):
    """
    MaxSim of one query and the passages in some rows, from their codes: float32 of shape `(len(rows),)`.

    Passages are taken by length, so that a block of them is nearly rectangular. The places that are left repeat a
    passage's last token, which changes no maximum.
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
    """Inner products of tokens and query tokens in units of `query.scales`, `(num_tokens, query_length)`."""
    cells, scales, codes = split_records(records)
    products = integer_products(unpack(codes, nbits), query.levels).add(query.shifts)
    return query.cell_scores.index_select(0, cells.int()).addcmul_(products, scales.float()[:, None])


def take_rows(records, places):
    """Some rows of a contiguous matrix of bytes."""
    if records.is_cuda:
        return records.index_select(0, places)
    # On a CPU torch copies byte by byte; NumPy copies a scalar of many bytes at once
    rows = records.numpy().view(f"V{records.shape[1]}")[:, 0].take(places.numpy(), mode="clip")
    return torch.from_numpy(rows.view(np.uint8).reshape(len(places), records.shape[1]))


def integer_products(levels, query_levels):
    """The exact matrix product of two int8 matrices: int32, or float32 where there is no fast integer product."""
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


def map_in_threads(function, items):
    """
    The results of a function of tensors for each item, in order, on as many threads as torch may use.

    Each call has one thread: many small operations are faster so than with every operation on all threads.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(items) < 2:
        return [function(item) for item in items]
    try:
        # The number of threads belongs to the thread that sets it, but new threads begin with the number set last
        with ThreadPoolExecutor(
            min(num_threads, len(items)), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(num_threads)


__all__ = [
    "PRESETS",
    "CellLists",
    "SearchLimits",
    "candidate_passages",
    "map_in_threads",
    "rerank_scores",
    "search_limits",
    "similarities",
    "take_rows",
]
