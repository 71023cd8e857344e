"""Indexes that were given a sample of queries: what it improves, and that it is kept."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_xlir import ColBERTXLMRProcessor
from hf_xlir.index import LateInteractionIndex, QueryEmbeddings, TokenEmbeddings, embed_passages, embed_queries
from hf_xlir.index.late_interaction.query_sample import pieces_of


DIM, NUM_PASSAGES, LENGTH = 64, 400, 12


def passages(num_passages=NUM_PASSAGES, prefix="p"):
    values = np.random.default_rng(0).standard_normal((num_passages * LENGTH, DIM))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    lengths = np.full(num_passages, LENGTH)
    return TokenEmbeddings(values.astype("float32"), lengths, [f"{prefix}{row}" for row in range(num_passages)])


def expanded_queries(num_queries=20, seed=1):
    """Two tokens of their own, and ten that are much the same in all queries, as `[MASK]` are."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(num_queries, 2, DIM, generator=generator)
    mask = torch.randn(DIM, generator=torch.Generator().manual_seed(7)).expand(num_queries, 10, DIM)
    mask = mask + 0.2 * torch.randn(num_queries, 10, DIM, generator=generator)
    return QueryEmbeddings(
        torch.nn.functional.normalize(torch.cat([own, mask], dim=1), dim=2),
        torch.ones(num_queries, 12, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def sampled_index():
    return LateInteractionIndex.build(passages(), 2, num_centroids=32, queries=expanded_queries(seed=2))


def recall(index, preset="exact", k=10):
    queries = expanded_queries().embeddings
    truth = LateInteractionIndex.build(passages(), nbits=None).search_batch(queries, k).total_indices
    found = index.search_batch(queries, k, preset=preset).total_indices
    return np.mean([len(set(one) & set(other)) / k for one, other in zip(truth, found, strict=True)])


def codec_of(index):
    return index.contents.training.codec


def is_stretched(index):
    return not torch.equal(codec_of(index).rotation, codec_of(index).query_rotation)


def test_more_of_the_best_passages_are_found(sampled_index):
    plain = LateInteractionIndex.build(passages(), 2, num_centroids=32)
    assert plain.nbytes == sampled_index.nbytes and not is_stretched(plain)
    assert recall(sampled_index) > recall(plain) + 0.15
    limits = {"preset": "exact", "n_probe": 4, "n_tokens": 10**9, "n_rerank": 50}
    queries = expanded_queries().embeddings
    found = [
        [
            len(set(one) & set(other))
            for one, other in zip(
                index.search_batch(queries, **limits).total_indices,
                index.search_batch(queries, preset="exact").total_indices,
                strict=True,
            )
        ]
        for index in (sampled_index, plain)
    ]
    assert np.mean(found[0]) > np.mean(found[1])  # what codes find is among the candidates more often


def test_scores_are_inner_products_with_what_is_stored(sampled_index):
    [segment] = sampled_index.contents.segments
    query = expanded_queries().embeddings[0]
    decoded = torch.from_numpy(segment.vectors(np.arange(17 * LENGTH, 18 * LENGTH)))
    scores = dict(zip(*sampled_index.search(query, NUM_PASSAGES, preset="exact")[::-1], strict=True))
    assert scores[17] == pytest.approx(float((query @ decoded.T).amax(dim=1).sum()), abs=0.05)


def test_a_sample_of_other_queries_costs_little():
    generator = torch.Generator().manual_seed(5)
    others = torch.nn.functional.normalize(torch.randn(20, 6, DIM, generator=generator), dim=2)
    exact = LateInteractionIndex.build(passages(), nbits=None).search_batch(others, 10).total_indices
    found = []
    for queries in (None, expanded_queries()):
        index = LateInteractionIndex.build(passages(), 4, num_centroids=32, queries=queries)
        rows = index.search_batch(others, 10, preset="exact").total_indices
        found.append(np.mean([len(set(one) & set(other)) / 10 for one, other in zip(exact, rows, strict=True)]))
    assert found[1] > found[0] - 0.1


def test_masked_tokens_do_not_count():
    queries = expanded_queries()
    mask = queries.mask.clone()
    mask[:, 2:] = False
    first = LateInteractionIndex.build(passages(60), 4, queries=QueryEmbeddings(queries.embeddings, mask))
    second = LateInteractionIndex.build(
        passages(60), 4, queries=QueryEmbeddings(queries.embeddings[:, :2].contiguous(), None)
    )
    assert torch.equal(codec_of(first).rotation, codec_of(second).rotation)


class TestKeeping:
    def test_saved_and_loaded(self, sampled_index, tmp_path):
        sampled_index.save(tmp_path)
        loaded = LateInteractionIndex.load(tmp_path, verify=True)
        for index in (loaded, pickle.loads(pickle.dumps(loaded)), copy.deepcopy(loaded)):
            for name in ("rotation", "query_rotation", "centroids"):
                assert torch.equal(getattr(codec_of(index), name), getattr(codec_of(sampled_index), name))
            np.testing.assert_array_equal(index.contents.query_moments, sampled_index.contents.query_moments)
        assert recall(loaded) == recall(sampled_index)

    def test_rebuilt_and_changed(self, sampled_index):
        index = copy.deepcopy(sampled_index)
        index.rebuild(passages())
        assert torch.equal(codec_of(index).rotation, codec_of(sampled_index).rotation)
        index.remove(index.ids[5:])
        index.add(passages(10, "q"))
        index.compact()
        index.rebuild()
        assert is_stretched(index)
        index.remove(index.ids)
        index.add(passages(10, "q"))
        assert is_stretched(index)

    def test_until_an_index_is_large_enough(self, monkeypatch):
        monkeypatch.setattr("hf_xlir.index.late_interaction.maintenance.MOST_EXACT_TOKENS", 20 * LENGTH)
        index = LateInteractionIndex.build(passages(20), queries=expanded_queries())
        assert index.contents.training is None
        index.add(passages(20, "q"))
        assert is_stretched(index)

    def test_merged(self, sampled_index):
        other = LateInteractionIndex.build(passages(20, "q"), 2, num_centroids=32)
        merged = LateInteractionIndex.merge([other, sampled_index])
        moments = sampled_index.contents.query_moments
        np.testing.assert_array_equal(merged.contents.query_moments, moments)
        queries = expanded_queries().embeddings
        shards = [each.search_batch(queries, 5, preset="exact") for each in (other, sampled_index)]
        best = np.sort(np.concatenate([each.total_scores for each in shards], axis=1))[:, :-6:-1]
        np.testing.assert_allclose(merged.search_batch(queries, 5, preset="exact").total_scores, best, rtol=1e-6)
        merged.rebuild()
        assert is_stretched(merged)

    def test_given_later(self):
        index = LateInteractionIndex.build(passages(), 2, num_centroids=32)
        before = recall(index)
        index.rebuild(passages(), queries=expanded_queries(seed=2))
        assert recall(index) > before + 0.15


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (expanded_queries().embeddings, "`queries` must be `QueryEmbeddings`, got Tensor"),
        (QueryEmbeddings(torch.ones(2, DIM), None), r"\(num_queries, query_length, embedding_dim\)"),
        (QueryEmbeddings(torch.ones(2, 3, 5), None), "have 5 dimensions, the index has 64"),
        (QueryEmbeddings(torch.full((2, 3, DIM), torch.nan), None), "NaN or infinite"),
        (QueryEmbeddings(torch.ones(2, 3, DIM), torch.zeros(2, 3, dtype=torch.bool)), "Query 0 keeps no token"),
    ],
)
def test_what_is_no_sample_is_refused(queries, message):
    with pytest.raises(ValueError, match=message):
        LateInteractionIndex.build(passages(10), 4, queries=queries)
    index = LateInteractionIndex.build(passages(10), 4)
    with pytest.raises(ValueError, match=message):
        index.rebuild(queries=queries)


class TestPieces:
    """Where no sample is given: pieces of passages, which are embedded as queries beside them."""

    def test_what_they_are(self):
        texts = ["one two three", "  " + " ".join(f"w{i}" for i in range(50)), "語" * 90]
        passages = [{"id": str(row), "text": texts[row % 3]} for row in range(1500)]
        pieces = pieces_of(passages)
        assert len(pieces) == 100 and pieces == pieces_of(passages) != pieces_of(passages, seed=1)
        assert {piece for piece in pieces if piece.startswith("o")} == {"one two three"}
        words = [piece.split() for piece in pieces if piece.startswith("w")]
        assert {len(each) for each in words} == set(range(4, 11))
        assert all(each == [f"w{int(each[0][1:]) + i}" for i in range(len(each))] for each in words)
        assert len({each[0] for each in words}) > 15
        assert all(10 <= len(piece) <= 40 for piece in pieces if piece.startswith("語"))
        assert len(pieces_of(passages[:1000])) == 100 and len(pieces_of(passages[:41])) == 5

    def test_they_are_embedded_as_queries(self, tiny_colbert, tiny_tokenizer, tmp_path, caplog):
        processor = ColBERTXLMRProcessor(tiny_tokenizer, query_length=16, document_length=40)
        rows = [{"id": str(row), "text": f"The river {row} flows to the sea, and no further."} for row in range(95)]
        embeddings = embed_passages(tiny_colbert, processor, rows, progress=False)
        queries = embed_queries(tiny_colbert, processor, pieces_of(rows))
        kept = queries.embeddings[queries.mask].double()
        assert len(queries.embeddings) == 10 and "truncated" in caplog.text
        caplog.clear()
        embed_passages(tiny_colbert, processor, rows, progress=False)
        assert "truncated" not in caplog.text  # though the pieces were
        np.testing.assert_allclose(embeddings.query_moments, kept.T @ kept / len(kept), atol=1e-6)
        on_disk = embed_passages(tiny_colbert, processor, rows, tmp_path / "embeddings", progress=False)
        np.testing.assert_allclose(on_disk.query_moments, embeddings.query_moments, atol=1e-9)
        embeddings.save(tmp_path / "saved")
        loaded = TokenEmbeddings.load(tmp_path / "saved")
        np.testing.assert_array_equal(loaded.query_moments, embeddings.query_moments)

        index = LateInteractionIndex.build(loaded, 4, pooling_factor=2)
        assert is_stretched(index)
        np.testing.assert_array_equal(index.contents.query_moments, loaded.query_moments)
        sampled = LateInteractionIndex.build(loaded, 4, queries=embed_queries(tiny_colbert, processor, ["A river?"]))
        assert not np.array_equal(sampled.contents.query_moments, loaded.query_moments)
        assert not is_stretched(LateInteractionIndex.build(replace(loaded, query_moments=None), 4))

    def test_a_model_that_cannot_embed_queries(self, tiny_colbert, tiny_tokenizer, monkeypatch):
        processor = ColBERTXLMRProcessor(tiny_tokenizer, query_length=16, document_length=40)
        forward = tiny_colbert.forward

        def no_queries(input_ids, **inputs):
            output = forward(input_ids, **inputs)
            if input_ids.shape[1] == 16:
                output.embeddings[:] = torch.nan
            return output

        monkeypatch.setattr(tiny_colbert, "forward", no_queries)
        rows = [{"id": "a", "text": "Seoul, Helsinki. " * 20}]
        assert embed_passages(tiny_colbert, processor, rows, progress=False).query_moments is None

    def test_moments_of_another_size(self):
        with pytest.raises(ValueError, match=r"`query_moments` must have shape \(64, 64\), got \(3, 3\)"):
            replace(passages(2), query_moments=np.eye(3))
