"""A segment: what is searched thoroughly equals MaxSim over its decoded vectors; masks; arrays that are files."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.index import TokenEmbeddings
from hf_xlir.index.late_interaction import tokens
from hf_xlir.index.late_interaction.codec import split_records, train_codec
from hf_xlir.index.late_interaction.tokens import CompressedTokens


DIM = 16
EVERYTHING = {"n_probe": 10**6, "n_tokens": 10**9}


def made_up(num_passages=60, seed=0, longest=9, dim=DIM):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest + 1, num_passages)
    topics = generator.standard_normal((num_passages, dim))
    values = np.repeat(topics, lengths, axis=0) + 0.7 * generator.standard_normal((lengths.sum(), dim))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return TokenEmbeddings(values.astype("float32"), lengths, [f"p{row}" for row in range(num_passages)])


def queries_like(embeddings, num_queries=3, length=4, seed=1):
    generator = np.random.default_rng(seed)
    passages = generator.integers(0, len(embeddings), (num_queries, 1))  # a query is about one passage
    rows = embeddings.offsets[passages] + generator.integers(0, embeddings.lengths[passages], (num_queries, length))
    noise = 0.3 * generator.standard_normal((num_queries, length, embeddings.embedding_dim))
    return torch.from_numpy(embeddings.values[rows] + noise).float(), torch.ones(num_queries, length, dtype=torch.bool)


def segment_of(embeddings, nbits=4, **options):
    return CompressedTokens.build(embeddings, train_codec(embeddings, nbits, **options))


def decoded(segment, row):
    start, stop = segment.arrays["offsets"][row : row + 2]
    return segment.codec.decode(torch.from_numpy(segment.arrays["records"][start:stop]))


def brute_force(segment, query, rows):
    """MaxSim in float64 of a query and the segment's decoded vectors."""
    scores = []
    for row in rows:
        vectors = decoded(segment, row).double()
        scores.append(float((query.double() @ vectors.T).max(dim=1).values.sum()))
    return np.array(scores)


@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 8])
def test_reranking_everything_is_maxsim_of_decoded_vectors(nbits):
    embeddings = made_up()
    segment, (queries, mask) = segment_of(embeddings, nbits), queries_like(embeddings)
    best = segment.search(queries, mask, k=60, n_rerank=60, **EVERYTHING)
    for query, scores, rows in zip(queries, best.scores, best.rows, strict=True):
        assert sorted(rows.tolist()) == list(range(60))
        np.testing.assert_allclose(scores.numpy(), brute_force(segment, query, rows.tolist()), atol=0.05)
        assert (scores.diff() <= 0).all()


def test_candidates_of_all_cells_contain_the_best():
    embeddings = made_up(num_passages=200)
    segment, (queries, mask) = segment_of(embeddings, 8), queries_like(embeddings, num_queries=10)
    everything = segment.search(queries, mask, k=5, n_rerank=200, **EVERYTHING)
    candidates = segment.search(queries, mask, k=5, n_rerank=6, **EVERYTHING)  # estimates are exact
    assert torch.equal(candidates.rows, everything.rows)
    torch.testing.assert_close(candidates.scores, everything.scores)


def test_few_cells_find_most():
    embeddings = made_up(num_passages=300)
    segment, (queries, mask) = segment_of(embeddings), queries_like(embeddings, num_queries=30)
    everything = segment.search(queries, mask, k=1, n_rerank=300, **EVERYTHING).rows
    for limits in ({"n_probe": 8, "n_tokens": 10**9}, {"n_probe": 10**6, "n_tokens": 100}):
        found = segment.search(queries, mask, k=1, n_rerank=30, **limits).rows
        assert (found == everything).float().mean() > 0.8


@given(
    allowed=st.sets(st.integers(0, 59), min_size=1),
    k=st.integers(1, 70),
    n_rerank=st.integers(1, 70),
    n_probe=st.integers(1, 50),
    n_tokens=st.integers(1, 500),
)
@settings(max_examples=60, deadline=None)
def test_as_many_allowed_passages_as_there_are(allowed, k, n_rerank, n_probe, n_tokens):
    embeddings = made_up()
    segment, (queries, mask) = cached_segment(), queries_like(embeddings)
    keep = torch.zeros(60, dtype=torch.bool)
    keep[list(allowed)] = True
    best = segment.search(queries, mask, k, n_probe, n_tokens, n_rerank, keep)
    assert best.rows.shape == best.scores.shape == (3, min(k, len(allowed)))
    for rows in best.rows.tolist():
        assert set(rows) <= allowed and len(set(rows)) == len(rows)


def test_a_mask_and_the_same_rows_searched_alone_agree():
    embeddings = made_up()
    segment, (queries, mask) = cached_segment(), queries_like(embeddings)
    keep = torch.arange(60) % 3 == 1
    masked = segment.search(queries, mask, k=7, n_rerank=7, allowed=keep, **EVERYTHING)
    everything = segment.search(queries, mask, k=60, n_rerank=60, **EVERYTHING)
    for rows, all_rows in zip(masked.rows.tolist(), everything.rows.tolist(), strict=True):
        assert len(set(rows) & {row for row in all_rows if row % 3 == 1}) == 7
        assert len(set(rows) & set([row for row in all_rows if row % 3 == 1][:7])) >= 6  # near ties


def test_a_restricted_search_meets_as_many_allowed_tokens(monkeypatch):
    segment, (queries, mask), limits = cached_segment(), queries_like(made_up()), []
    choose = tokens.candidate_passages

    def spy(*args):
        limits.append(args[5:8])
        return choose(*args)

    monkeypatch.setattr(tokens, "candidate_passages", spy)
    for step in (1, 4):
        keep = torch.arange(60) % step == 0
        segment.search(queries[:1], mask[:1], k=3, n_probe=2, n_tokens=10, n_rerank=5, allowed=keep)
    assert limits == [(2, 10, 5), (8, 40, 5)]


def test_tokens_that_do_not_count_change_nothing():
    embeddings = made_up()
    segment, (queries, mask) = cached_segment(), queries_like(embeddings)
    padded = torch.cat([queries, torch.full((3, 2, DIM), torch.nan)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(3, 2, dtype=torch.bool)], dim=1)
    limits = {"k": 5, "n_probe": 3, "n_tokens": 40, "n_rerank": 10}
    expected, found = segment.search(queries, mask, **limits), segment.search(padded, padded_mask, **limits)
    assert torch.equal(found.rows, expected.rows) and torch.equal(found.scores, expected.scores)


def test_a_batch_is_its_queries_one_by_one():
    embeddings = made_up()
    segment, (queries, mask) = cached_segment(), queries_like(embeddings)
    limits = {"k": 5, "n_probe": 3, "n_tokens": 40, "n_rerank": 10}
    batch = segment.search(queries, mask, **limits)
    for i in range(3):
        alone = segment.search(queries[i : i + 1], mask[i : i + 1], **limits)
        assert torch.equal(alone.rows[0], batch.rows[i]) and torch.equal(alone.scores[0], batch.scores[i])
    assert segment.search(queries[:0], mask[:0], **limits).rows.shape[0] == 0


def test_of_equal_scores_the_lowest_row_comes_first():
    values = np.tile(np.eye(4, DIM, dtype="float32")[:1], (6, 1))
    embeddings = TokenEmbeddings(values, np.ones(6, dtype=np.int64), list("abcdef"))
    segment = segment_of(embeddings, num_centroids=2)
    best = segment.search(torch.eye(1, DIM)[None], torch.ones(1, 1, dtype=torch.bool), 4, 1, 1, 6)
    assert best.rows.tolist() == [[0, 1, 2, 3]]


def test_arrays_are_the_segment_memory_mapped_or_not(tmp_path):
    embeddings = made_up()
    segment, (queries, mask) = cached_segment(), queries_like(embeddings)
    for name, array in segment.arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="c") for name in segment.arrays}
    again = CompressedTokens(segment.codec, mapped)
    limits = {"k": 5, "n_probe": 3, "n_tokens": 40, "n_rerank": 10}
    assert torch.equal(again.search(queries, mask, **limits).scores, segment.search(queries, mask, **limits).scores)
    assert again.num_tokens == len(embeddings.values) and len(again) == 60 and again.nbytes == segment.nbytes


def test_blocks_do_not_matter(monkeypatch):
    monkeypatch.setattr(tokens, "TOKENS_PER_BLOCK", 7)
    segment, expected = CompressedTokens.build(made_up(), cached_segment().codec), cached_segment()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(segment.arrays[name], array)


def test_lists_hold_every_token_once():
    segment = cached_segment()
    arrays = segment.arrays
    places = arrays["offsets"][arrays["cell_passages"]] + arrays["cell_positions"]
    assert sorted(places.tolist()) == list(range(segment.num_tokens))
    cells = np.repeat(np.arange(len(segment.codec.centroids)), np.diff(arrays["cell_offsets"]))
    np.testing.assert_array_equal(split_records(torch.from_numpy(arrays["records"]))[0][places], cells)


def test_passages_longer_than_a_byte_counts():
    embeddings = made_up(num_passages=5, longest=700)
    segment, (queries, mask) = segment_of(embeddings), queries_like(embeddings)
    assert segment.arrays["cell_positions"].dtype == np.int32
    best = segment.search(queries, mask, k=1, n_rerank=2, **EVERYTHING)
    for query, row in zip(queries, best.rows[:, 0].tolist(), strict=True):
        assert brute_force(segment, query, range(5)).argmax() == row


@pytest.mark.parametrize(("length", "dtype"), [(256, np.uint8), (257, np.int32)])
def test_positions_fill_a_byte_and_no_more(length, dtype):
    values = np.zeros((length + 1, DIM), "float32")
    values[:, 0] = 1
    values[length - 1] = np.eye(DIM)[1]  # the last token of the first passage alone is this one
    embeddings = TokenEmbeddings(values, np.array([length, 1]), ["a", "b"])
    segment = segment_of(embeddings, 8, num_centroids=2)
    assert segment.arrays["cell_positions"].dtype == dtype
    query = torch.eye(2, DIM)[None, 1:]
    best = segment.search(query, torch.ones(1, 1, dtype=torch.bool), 1, n_probe=1, n_tokens=1, n_rerank=1)
    assert best.rows.tolist() == [[0]] and segment.arrays["cell_positions"].max() == length - 1


def test_similarities_are_inner_products_with_decoded_vectors():
    embeddings = made_up()
    segment, (queries, _) = segment_of(embeddings, 8), queries_like(embeddings)
    np.testing.assert_allclose(decoded(segment, 7), embeddings[7], atol=0.02)
    similarities = segment.similarities(queries[0], 7)
    torch.testing.assert_close(similarities, queries[0] @ decoded(segment, 7).T, atol=0.02, rtol=0)


def test_another_segment_with_the_same_codec():
    first, second = made_up(seed=0), made_up(num_passages=20, seed=5)
    codec = train_codec(first, nbits=8)
    segment, (queries, mask) = CompressedTokens.build(second, codec), queries_like(second)
    best = segment.search(queries, mask, k=20, n_rerank=20, **EVERYTHING)
    exact = [
        max(range(20), key=lambda row, query=query: float((query @ torch.tensor(second[row]).T).amax(1).sum()))
        for query in queries
    ]
    assert best.rows[:, 0].tolist() == exact


def test_no_passages():
    empty = TokenEmbeddings(np.zeros((0, DIM), "float32"), np.zeros(0, np.int64), [])
    segment = CompressedTokens.build(empty, cached_segment().codec)
    queries, mask = queries_like(made_up())
    assert len(segment) == 0 and segment.search(queries, mask, 3, 1, 1, 1).rows.shape == (3, 0)


def cached_segment(_cache=[]):  # noqa: B006
    if not _cache:
        _cache.append(segment_of(made_up()))
    return _cache[0]
