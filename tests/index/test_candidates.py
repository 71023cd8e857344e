"""Candidates: which cells are visited, what a passage is given where it was not met, and which rows come out."""

import torch

from hf_xlir.index.late_interaction.codec import ResidualCodec
from hf_xlir.index.late_interaction.search import CellLists, _ranges, _visited_cells, candidate_passages


# Four centroids on the axes of an identity rotation, and one token at each but the first, which has two
CODEC = ResidualCodec(torch.eye(4, 8), torch.eye(8), nbits=4)
CELL_OFFSETS = torch.tensor([0, 2, 3, 4, 5])


def query_of(*tokens):
    return CODEC.rotate_query(torch.tensor([[*token, 0, 0, 0, 0] for token in tokens], dtype=torch.float32))


def visited(query, n_probe, n_tokens=10**9):
    cells, missing = _visited_cells(query, CELL_OFFSETS, n_probe, n_tokens)
    return cells.tolist(), (missing * query.scales)[query.scales > 0].tolist()


def test_the_best_cells_are_visited_and_the_next_is_what_is_missing():
    cells, missing = visited(query_of([0.4, 0.9, 0.1, 0.2]), n_probe=1)
    assert cells == [1]
    torch.testing.assert_close(torch.tensor(missing), torch.tensor([0.4]))
    assert visited(query_of([0.4, 0.9, 0.1, 0.2]), n_probe=2)[0] == [1, 0]


def test_visits_are_shared_among_query_tokens():
    # Two alike tokens have four visits in all, and do not spend them on the same two cells
    alike = query_of([0.4, 0.9, 0.1, 0.2], [0.4, 0.9, 0.1, 0.2])
    assert sorted(visited(alike, n_probe=2)[0]) == [0, 1, 2, 3]
    apart = query_of([1.0, 0.0, 0.0, 0.1], [0.0, 0.0, 0.9, 0.1])
    cells, missing = visited(apart, n_probe=1)
    assert cells == [0, 2]
    torch.testing.assert_close(torch.tensor(missing), torch.tensor([0.1, 0.1]))
    # Cell 0 has two tokens, so that four are met before the limit of two for each query token ends the visits
    assert visited(apart, n_probe=1, n_tokens=2)[0] == [0, 2] and visited(apart, n_probe=1, n_tokens=1)[0] == [0]


def test_a_cell_far_from_one_query_token_is_visited_for_another():
    codec = ResidualCodec(torch.eye(8), torch.eye(8), nbits=4)
    query = codec.rotate_query(torch.tensor([[1.0, 0.3, 0.3, 0, 0, 0, 0, 0], [-1.0, 0.3, 0.3, 0, 0, 0, 0, 0]]))
    cells, _ = _visited_cells(query, torch.arange(9), n_probe=1, n_tokens=10**9)
    assert cells[0] == 0 and len(cells) == 2


def test_tokens_met_limit_the_visits():
    query = query_of([0.9, 0.4, 0.3, 0.2])
    assert visited(query, n_probe=4, n_tokens=1)[0] == [0]  # a cell is visited whole
    assert visited(query, n_probe=4, n_tokens=2)[0] == [0]
    assert visited(query, n_probe=4, n_tokens=3)[0] == [0, 1]
    assert visited(query, n_probe=10**30, n_tokens=10**30)[0] == [0, 1, 2, 3]
    cells, missing = visited(query, n_probe=4)
    assert cells == [0, 1, 2, 3]
    torch.testing.assert_close(torch.tensor(missing), torch.tensor([0.2]))


def test_ranges():
    starts, stops = torch.tensor([5, 2, 7]), torch.tensor([7, 2, 10])
    assert _ranges(starts, stops).tolist() == [5, 6, 7, 8, 9]


def candidates(query, n_rerank, allowed=None, n_probe=1):
    # Passages: 0 has tokens at centroids 0 and 1, 1 at 0, 2 at 2, 3 at 3
    vectors = torch.eye(4, 8)[[0, 1, 0, 2, 3]]
    tokens = CODEC.encode(vectors)
    lists = CellLists(
        CELL_OFFSETS, torch.tensor([0, 1, 0, 2, 3]).int(), torch.tensor([0, 0, 1, 0, 0], dtype=torch.uint8)
    )
    offsets = torch.tensor([0, 2, 3, 4, 5])
    allowed = None if allowed is None else torch.tensor(allowed)
    rows = candidate_passages(query, lists, offsets, tokens, 4, n_probe, 10**9, n_rerank, allowed)
    assert len(set(rows.tolist())) == n_rerank
    return set(rows.tolist())


def test_met_passages_are_chosen_by_their_sum():
    query = query_of([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])
    assert candidates(query, n_rerank=1) == {0}
    assert candidates(query, n_rerank=2) == {0, 1}


def test_other_passages_make_up_the_number():
    query = query_of([0.0, 0.0, 1.0, 0.0])
    assert candidates(query, n_rerank=1) == {2}
    assert candidates(query, n_rerank=3) == {2, 0, 1}


def test_only_allowed_passages_are_chosen():
    query = query_of([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])
    assert candidates(query, n_rerank=1, allowed=[False, True, True, True]) == {1}
    assert candidates(query, n_rerank=2, allowed=[False, True, False, True]) == {1, 3}
    assert candidates(query, n_rerank=2, allowed=[False, False, True, True]) == {2, 3}


def test_a_query_of_zeros_finds_any_passages():
    assert candidates(query_of([0.0, 0.0, 0.0, 0.0]), n_rerank=3) <= {0, 1, 2, 3}
