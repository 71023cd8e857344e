"""Search of a segment: limits, candidate passages, MaxSim from codes against float64 loops, threads."""

import threading
import time

import numpy as np
import pytest
import torch

from hf_xlir.index.late_interaction import search
from hf_xlir.index.late_interaction.codec import ResidualCodec, random_rotation
from hf_xlir.index.late_interaction.search import (
    PRESETS,
    CellLists,
    _ranges,
    _visited_cells,
    candidate_passages,
    integer_products,
    map_in_threads,
    rerank_scores,
    search_limits,
    similarities,
    take_rows,
)


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


def made_up(lengths, dim=16, nbits=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rotation = random_rotation(dim, seed=0)
    codec = ResidualCodec(torch.randn(5, rotation.shape[1], generator=generator), rotation, nbits)
    tokens = codec.encode(torch.randn(sum(lengths), dim, generator=generator))
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    return codec, tokens, offsets, torch.randn(3, dim, generator=generator)


def loop(codec, tokens, offsets, query, row):
    decoded = codec.decode(tokens).double().numpy()[offsets[row] : offsets[row + 1]]
    return sum(max(float(np.dot(q, v)) for v in decoded) for q in query.double().numpy())


@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dim", [16, 20, 64])
def test_scores_are_those_of_decoded_vectors(nbits, dim):
    lengths = [3, 1, 7, 2, 7, 30]
    codec, tokens, offsets, query = made_up(lengths, dim, nbits)
    rows = torch.tensor([5, 0, 3, 1, 4])
    scores = rerank_scores(codec.rotate_query(query), rows, offsets, tokens, nbits)
    expected = [loop(codec, tokens, offsets, query, row) for row in rows.tolist()]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=0.01, atol=0.004 * dim)  # queries have 8 bits


@pytest.mark.parametrize("most_tokens", [1, 4, 10, 1000])
def test_blocks_do_not_matter(most_tokens, monkeypatch):
    codec, tokens, offsets, query = made_up([3, 1, 7, 2, 7, 30])
    query, rows = codec.rotate_query(query), torch.tensor([2, 5, 0, 1, 3, 4])
    whole = rerank_scores(query, rows, offsets, tokens, 4)
    monkeypatch.setattr(search, "TOKENS_PER_BLOCK", most_tokens)
    torch.testing.assert_close(rerank_scores(query, rows, offsets, tokens, 4), whole)


def test_no_rows_have_no_scores():
    codec, tokens, offsets, query = made_up([3, 1])
    rows = torch.zeros(0, dtype=torch.long)
    assert rerank_scores(codec.rotate_query(query), rows, offsets, tokens, 4).shape == (0,)


def test_similarities_are_inner_products():
    codec, tokens, _, query = made_up([6], nbits=8)
    prepared, places = codec.rotate_query(query), torch.tensor([4, 0, 4])
    expected = codec.decode(tokens)[places] @ query.T
    found = similarities(prepared, take_rows(tokens, places), 8) * prepared.scales
    torch.testing.assert_close(found[:, :3], expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("num_bytes", [1, 5, 68])
def test_taken_rows_are_those(num_bytes):
    records = torch.arange(7 * num_bytes).reshape(7, num_bytes).to(torch.uint8)
    for places in (torch.tensor([6, 0, 6, 3]), torch.tensor([2], dtype=torch.int32), torch.zeros(0, dtype=torch.long)):
        assert torch.equal(take_rows(records, places), records[places.long()])


@pytest.mark.parametrize("capability", ["AVX512", "DEFAULT"])
def test_integer_products_are_exact(capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(-128, 128, (40, 128), generator=generator)
    right = torch.randint(-127, 128, (128, 3), generator=generator)
    products = integer_products(left.to(torch.int8), right.to(torch.int8))
    assert torch.equal(products.long(), left @ right)


def test_presets():
    assert list(PRESETS) == ["fast", "balanced", "exact"]
    for small, large in (("fast", "balanced"), ("balanced", "exact")):
        assert all(a <= b for a, b in zip(PRESETS[small], PRESETS[large], strict=True))
    assert search_limits("fast") == PRESETS["fast"]


def test_given_limits_replace_the_presets():
    assert search_limits("fast", n_rerank=np.int64(7)) == PRESETS["fast"]._replace(n_rerank=7)
    assert search_limits("exact", 1, 2, 3) == (1, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slow",), "`preset` .* got 'slow'"),
        ((None,), "got None"),
        (("fast", 0), "`n_probe` must be a positive integer, got 0"),
        (("fast", None, 1.5), "`n_tokens` must be a positive integer, got 1.5"),
        (("fast", None, None, True), "`n_rerank` must be a positive integer, got True"),
    ],
)
def test_wrong_limits(arguments, message):
    with pytest.raises(ValueError, match=message):
        search_limits(*arguments)


@pytest.fixture(params=[1, 3])
def num_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_are_in_order(num_threads):
    def slow_for_the_first(item):
        time.sleep(0.02 if item == 0 else 0)
        return item * 2, torch.get_num_threads(), threading.get_ident()

    found = map_in_threads(slow_for_the_first, range(20))
    assert [double for double, _, _ in found] == [2 * item for item in range(20)]
    assert {inner for _, inner, _ in found} == {1}  # each call has one thread
    assert len({thread for _, _, thread in found}) <= num_threads
    assert torch.get_num_threads() == num_threads
    assert map_in_threads(abs, []) == [] and map_in_threads(abs, [-1]) == [1]


def test_threads_that_begin_later_have_the_old_number(num_threads):
    map_in_threads(abs, range(5))
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [num_threads]


def test_an_error_comes_through(num_threads):
    def fail(item):
        if item == 2:
            raise ValueError("two")
        return item

    with pytest.raises(ValueError, match="two"):
        map_in_threads(fail, range(5))
    assert torch.get_num_threads() == num_threads
