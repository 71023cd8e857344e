"""The exact index against a loop in float64 and against `maxsim_scores`; the compressed one against the exact."""

import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.index import DenseEmbeddings, LateInteractionIndex, TokenEmbeddings
from hf_xlir.index.late_interaction import index as late_interaction
from hf_xlir.index.late_interaction import tokens as exact_tokens
from hf_xlir.index.late_interaction.search import PRESETS, SearchLimits
from hf_xlir.index.scoring import packed_maxsim_scores
from hf_xlir.models.late_interaction import maxsim_scores


DIM = 8


def random_embeddings(n=25, seed=0, dim=DIM, dtype="float32", longest=9):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, size=n)
    values = rng.standard_normal((lengths.sum(), dim))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return TokenEmbeddings(values.astype(dtype), lengths, [f"p{i}" for i in range(n)])


def random_queries(n, length=5, seed=1, dim=DIM):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, length, dim, generator=generator), dim=2)


def brute_force(embeddings, query, mask=None):
    """Score of every passage in float64, one token pair after another."""
    query = [token.tolist() for i, token in enumerate(query) if mask is None or mask[i]]

    def similarity(first, second):
        return sum(a * b for a, b in zip(first, second, strict=True))

    return [
        sum(max(similarity(token, other) for other in embeddings[row].tolist()) for token in query)
        for row in range(len(embeddings))
    ]


def ranking(scores, k):
    return sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]


def values_of(index):
    [segment] = index.contents.segments
    return segment.tokens.arrays["values"]


def dataset_of(embeddings):
    return Dataset.from_dict({"id": embeddings.ids, "text": [f"text of {id}" for id in embeddings.ids]})


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of passages and several chunks of queries even in a tiny index."""
    monkeypatch.setattr(exact_tokens, "MOST_TOKENS_PER_BLOCK", 11)
    monkeypatch.setattr(exact_tokens, "QUERY_TOKENS_PER_BLOCK", 12)


class TestSearch:
    @pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
    def test_equals_brute_force(self, small_blocks, dtype):
        embeddings = random_embeddings(dtype=dtype)
        index = LateInteractionIndex.build(embeddings)
        queries = random_queries(7)
        mask = torch.ones(7, 5, dtype=torch.bool)
        mask[0, 2:], mask[3, 0], mask[:, 4] = False, False, False
        scores, rows = index.search_batch(queries, k=12, query_mask=mask)
        assert scores.shape == rows.shape == (7, 12)
        for i in range(7):
            expected = brute_force(embeddings, queries[i], mask[i])
            assert rows[i].tolist() == ranking(expected, 12)
            np.testing.assert_allclose(scores[i], [expected[row] for row in rows[i]], atol=1e-5)
            single = index.search(queries[i], k=12, query_mask=mask[i])
            assert list(single.indices) == rows[i].tolist()
            np.testing.assert_allclose(single.scores, scores[i], atol=1e-6)

    def test_equals_maxsim_scores(self):
        embeddings = random_embeddings(60, seed=3)
        queries = random_queries(4, length=6)
        mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) > 0.3
        mask[:, 0] = True
        longest = int(embeddings.lengths.max())
        padded = torch.zeros(60, longest, DIM)
        kept = torch.zeros(60, longest, dtype=torch.bool)
        for i, length in enumerate(embeddings.lengths):
            padded[i, :length], kept[i, :length] = torch.from_numpy(embeddings[i]), True
        expected = maxsim_scores(queries, padded, mask, kept)
        scores, rows = LateInteractionIndex.build(embeddings).search_batch(queries, k=60, query_mask=mask)
        torch.testing.assert_close(torch.from_numpy(scores), expected.gather(1, torch.from_numpy(rows)))
        assert (np.sort(rows) == np.arange(60)).all() and (np.diff(scores) <= 0).all()

    def test_similarities_below_zero_are_kept(self):
        embeddings = TokenEmbeddings(np.array([[-1.0, 0], [-0.5, 0]]), np.array([1, 1]), ["far", "near"])
        scores, rows = LateInteractionIndex.build(embeddings).search(np.array([[1.0, 0], [0, 1.0]]))
        assert rows.tolist() == [1, 0] and scores.tolist() == [-0.5, -1.0]

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 3), st.integers(1, 15), st.integers(1, 40))
    def test_any_size_any_block(self, seed, n, num_queries, k, most_tokens):
        embeddings = random_embeddings(n, seed=seed)
        queries = random_queries(num_queries, seed=seed)
        limits = exact_tokens.MOST_TOKENS_PER_BLOCK
        exact_tokens.MOST_TOKENS_PER_BLOCK = most_tokens
        try:
            _, rows = LateInteractionIndex.build(embeddings).search_batch(queries, k)
        finally:
            exact_tokens.MOST_TOKENS_PER_BLOCK = limits
        for i in range(num_queries):
            assert rows[i].tolist() == ranking(brute_force(embeddings, queries[i]), k)

    def test_equal_scores_come_in_the_order_of_rows(self, small_blocks):
        one = random_embeddings(1, seed=5, longest=3)
        copies = TokenEmbeddings(np.tile(one.values, (30, 1)), np.tile(one.lengths, 30), [str(i) for i in range(30)])
        _, rows = LateInteractionIndex.build(copies).search(random_queries(1)[0], k=20)
        assert rows.tolist() == list(range(20))

    def test_k_beyond_the_size_returns_all(self):
        scores, rows = LateInteractionIndex.build(random_embeddings(5)).search(random_queries(1)[0], k=100)
        assert len(scores) == 5 and sorted(rows) == [0, 1, 2, 3, 4]

    def test_kinds_of_queries(self):
        index = LateInteractionIndex.build(random_embeddings())
        query = random_queries(1)[0]
        expected = index.search(query)
        for same in (
            query.numpy(),
            query.double().numpy(),
            query[None],
            query.tolist(),
            query.clone().requires_grad_(),
            query.T.contiguous().T,
        ):
            scores, rows = index.search(same)
            assert np.array_equal(rows, expected.indices)
            np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
        half = index.search(query.to(torch.bfloat16))
        np.testing.assert_allclose(half.scores, expected.scores, atol=0.05)

    def test_masked_tokens_may_be_anything(self):
        index = LateInteractionIndex.build(random_embeddings())
        query = random_queries(1)[0]
        expected = index.search(query[:3])
        query[3:] = float("nan")
        scores, rows = index.search(query, query_mask=np.array([True] * 3 + [False] * 2))
        assert np.array_equal(rows, expected.indices)
        np.testing.assert_allclose(scores, expected.scores, atol=1e-6)

    def test_memory_stays_bounded(self, monkeypatch):
        sizes = []

        def spy(queries, vectors, lengths):
            sizes.append(len(vectors) * queries.shape[0] * queries.shape[1])
            return packed_maxsim_scores(queries, vectors, lengths)

        monkeypatch.setattr(exact_tokens, "packed_maxsim_scores", spy)
        monkeypatch.setattr(exact_tokens, "SIMILARITIES_PER_BLOCK", 2000)
        monkeypatch.setattr(exact_tokens, "QUERY_TOKENS_PER_BLOCK", 100)
        index = LateInteractionIndex.build(random_embeddings(60))
        index.search_batch(random_queries(50), k=3)
        assert len(sizes) > 30 and max(sizes) <= 2000


class TestAllowedIds:
    def test_equals_brute_force_among_the_allowed(self, small_blocks):
        embeddings = random_embeddings()
        index = LateInteractionIndex.build(embeddings)
        queries = random_queries(6)
        allowed = [3, 4, 5, 12, 15, 20, 24]
        scores, rows = index.search_batch(queries, k=5, allowed_ids=[f"p{i}" for i in reversed(allowed)])
        for i in range(6):
            expected = brute_force(embeddings, queries[i])
            best = sorted(allowed, key=lambda row: (-expected[row], row))[:5]
            assert rows[i].tolist() == best
            np.testing.assert_allclose(scores[i], [expected[row] for row in best], atol=1e-5)

    def test_fewer_allowed_than_k(self):
        index = LateInteractionIndex.build(random_embeddings())
        query = random_queries(1)[0]
        assert sorted(index.search(query, k=10, allowed_ids={"p3", "p9"}).indices) == [3, 9]
        nothing = index.search(query, k=10, allowed_ids=[])
        assert len(nothing.scores) == len(nothing.indices) == 0

    def test_unknown_ids(self):
        index = LateInteractionIndex.build(random_embeddings())
        query = random_queries(1)[0]
        with pytest.raises(ValueError, match=r"2 ids are not in this index, such as \['x', 'y'\]"):
            index.search(query, allowed_ids=["p1", "y", "x"])
        with pytest.raises(ValueError, match="got one string"):
            index.search(query, allowed_ids="p1")

    def test_only_allowed_passages_are_scored(self, monkeypatch):
        seen = []
        monkeypatch.setattr(
            exact_tokens,
            "packed_maxsim_scores",
            lambda q, v, lengths: seen.append(len(v)) or packed_maxsim_scores(q, v, lengths),
        )
        embeddings = random_embeddings()
        LateInteractionIndex.build(embeddings).search(random_queries(1)[0], allowed_ids=["p7"])
        assert seen == [embeddings.lengths[7]]


class TestExplain:
    def test_literal(self):
        values = np.array([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [1.0, 0.0]], dtype=np.float32)
        index = LateInteractionIndex.build(TokenEmbeddings(values, np.array([1, 3]), ["a", "b"]))
        query = np.array([[0.0, 1.0], [5.0, 5.0], [1.0, 0.0]])
        matches = index.explain(query, "b", query_mask=np.array([True, False, True]))
        assert matches == [(0, 1, 2.0), (2, 0, 1.0)]
        assert matches[0].passage_token == 1

    def test_sums_to_the_score(self):
        index = LateInteractionIndex.build(random_embeddings())
        query = random_queries(1)[0]
        scores, rows = index.search(query, k=3)
        for score, row in zip(scores, rows, strict=True):
            assert sum(match.similarity for match in index.explain(query, index.ids[row])) == pytest.approx(
                score, abs=1e-5
            )

    def test_unknown_id(self):
        with pytest.raises(ValueError, match=r"1 ids are not in this index, such as \['nope'\]"):
            LateInteractionIndex.build(random_embeddings()).explain(random_queries(1)[0], "nope")


class TestDatasetFace:
    def test_get_nearest_examples(self):
        embeddings = random_embeddings()
        dataset = dataset_of(embeddings)
        index = LateInteractionIndex.build(embeddings)
        assert index.attach(dataset, "colbert") is index
        query = random_queries(1)[0]
        for same in (query, query.numpy()):
            scores, examples = dataset.get_nearest_examples("colbert", same, k=4)
            best = ranking(brute_force(embeddings, query), 4)
            assert examples["id"] == [f"p{row}" for row in best]
            assert examples["text"] == [f"text of p{row}" for row in best]
            assert len(scores) == 4 and scores[0] >= scores[-1]

    def test_options_pass_through(self):
        embeddings = random_embeddings()
        dataset = dataset_of(embeddings)
        LateInteractionIndex.build(embeddings).attach(dataset, "colbert")
        query = random_queries(1)[0]
        mask = torch.tensor([True, False, False, False, False])
        _, examples = dataset.get_nearest_examples("colbert", query, k=5, query_mask=mask, allowed_ids=["p3", "p5"])
        expected = brute_force(embeddings, query, mask)
        assert examples["id"] == ["p3", "p5"] if expected[3] >= expected[5] else ["p5", "p3"]
        _, nothing = dataset.get_nearest_examples("colbert", query, k=5, allowed_ids=[])
        assert nothing["id"] == []

    def test_batch(self):
        embeddings = random_embeddings()
        dataset = dataset_of(embeddings)
        LateInteractionIndex.build(embeddings).attach(dataset, "colbert")
        queries = random_queries(3)
        scores, examples = dataset.get_nearest_examples_batch("colbert", queries, k=4)
        assert len(scores) == len(examples) == 3
        for query, found in zip(queries, examples, strict=True):
            assert found["id"] == [f"p{row}" for row in ranking(brute_force(embeddings, query), 4)]

    def test_another_dataset_is_refused(self):
        embeddings = random_embeddings(4)
        index = LateInteractionIndex.build(embeddings)
        dataset = dataset_of(embeddings)
        with pytest.raises(ValueError, match="3 rows, but 4 passages were embedded"):
            index.attach(dataset.select(range(3)), "colbert")
        with pytest.raises(ValueError, match="Row 0 of the dataset is the passage `p3`, but `p0`"):
            index.attach(dataset.select([3, 2, 1, 0]), "colbert")
        with pytest.raises(ValueError, match="got list"):
            index.attach(list(dataset), "colbert")
        index.attach(dataset.remove_columns("id"), "colbert")


class TestSaveAndLoad:
    def test_round_trip_is_memory_mapped_and_equal(self, tmp_path):
        index = LateInteractionIndex.build(random_embeddings(dtype="float16"))
        index.save(tmp_path / "index")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns about arrays that it could write to
            loaded = LateInteractionIndex.load(tmp_path / "index")
            queries = random_queries(3)
            expected, found = index.search_batch(queries), loaded.search_batch(queries)
        assert isinstance(values_of(loaded), np.memmap)
        assert np.array_equal(expected.total_scores, found.total_scores)
        assert np.array_equal(expected.total_indices, found.total_indices)
        assert loaded.ids == index.ids

    def test_saving_over_itself(self, tmp_path):
        LateInteractionIndex.build(random_embeddings()).save(tmp_path)
        loaded = LateInteractionIndex.load(tmp_path)
        loaded.save(tmp_path)
        again = LateInteractionIndex.load(tmp_path)
        assert np.array_equal(values_of(again), values_of(loaded))
        assert len(list(tmp_path.iterdir())) == 4

    def test_an_interrupted_save_leaves_the_old_index(self, tmp_path, monkeypatch):
        LateInteractionIndex.build(random_embeddings(5)).save(tmp_path)
        before = sorted(file.name for file in tmp_path.iterdir())

        def fail(*args):
            raise OSError("No space left on device")

        monkeypatch.setattr("hf_xlir.index.late_interaction.folder.write_ids", fail)
        with pytest.raises(OSError, match="No space left"):
            LateInteractionIndex.build(random_embeddings(9)).save(tmp_path)
        assert sorted(file.name for file in tmp_path.iterdir()) == before
        assert len(LateInteractionIndex.load(tmp_path)) == 5


class TestBadInput:
    def test_build(self):
        embeddings = random_embeddings(5)
        with pytest.raises(ValueError, match=r"must be one of \[1, 2, 3, 4, 8\], got 5"):
            LateInteractionIndex.build(embeddings, nbits=5)
        with pytest.raises(ValueError, match="got DenseEmbeddings"):
            LateInteractionIndex.build(DenseEmbeddings(np.zeros((1, 2)), ["a"]))
        with pytest.raises(ValueError, match="no passages"):
            LateInteractionIndex.build(TokenEmbeddings(np.zeros((0, 2)), np.zeros(0, dtype=int), []))
        embeddings.values[embeddings.offsets[3], 1] = np.nan
        with pytest.raises(ValueError, match="passage `p3` has a NaN"):
            LateInteractionIndex.build(embeddings)

    @pytest.mark.parametrize(
        ("query", "options", "message"),
        [
            (np.zeros((3, 7)), {}, "7 dimensions, the index has 8"),
            (np.zeros(8), {}, r"\(query_length, embedding_dim\).*got \(8,\)"),
            (np.zeros((2, 3, 8)), {}, "`search_batch`"),
            (np.zeros((0, 8)), {}, "without a 0"),
            ([[1.0], [1.0, 2.0]], {}, "one array or tensor of numbers"),
            (np.full((3, 8), np.nan), {}, "NaN or infinite"),
            (np.ones((3, 8)), {"k": 0}, "positive integer, got 0"),
            (np.ones((3, 8)), {"k": 2.0}, "positive integer, got 2.0"),
            (np.ones((3, 8)), {"query_mask": np.ones(3)}, "`query_mask` must be boolean"),
            (np.ones((3, 8)), {"query_mask": np.ones(2, dtype=bool)}, r"shape \(1, 2\) for queries of shape \(3, 8\)"),
            (np.ones((3, 8)), {"query_mask": np.zeros(3, dtype=bool)}, "Query 0 keeps no token"),
        ],
    )
    def test_search(self, query, options, message):
        with pytest.raises(ValueError, match=message):
            LateInteractionIndex.build(random_embeddings()).search(query, **options)

    def test_search_batch_needs_three_axes(self):
        with pytest.raises(ValueError, match=r"\(num_queries, query_length, embedding_dim\).*got \(5, 8\)"):
            LateInteractionIndex.build(random_embeddings()).search_batch(random_queries(1)[0])


@pytest.fixture(scope="module")
def compressed():
    return LateInteractionIndex.build(random_embeddings(200, seed=4), nbits=8)


class TestCompressed:
    def test_presets_and_limits(self, compressed, monkeypatch):
        exact = LateInteractionIndex.build(random_embeddings(200, seed=4), nbits=None)
        queries = random_queries(20, length=3)
        expected = exact.search_batch(queries, k=10).total_indices

        def recall(**limits):
            found = compressed.search_batch(queries, k=10, **limits).total_indices
            return np.mean([len({*a} & {*b}) / 10 for a, b in zip(expected, found, strict=True)])

        assert recall(preset="exact") > 0.97 and recall(preset="exact", n_rerank=199) > 0.97
        assert 0.1 < recall(n_probe=1, n_tokens=1, n_rerank=10) < recall(n_probe=8, n_rerank=40) - 0.1
        monkeypatch.setitem(PRESETS, "fast", SearchLimits(1, 1, 10))
        assert recall(preset="fast") == recall(n_probe=1, n_tokens=1, n_rerank=10)
        assert recall() == recall(preset="balanced")

    def test_one_query_is_a_batch_of_one(self, compressed):
        queries = random_queries(3)
        mask = torch.tensor([True, False, True, True, False])
        for limits in ({}, {"preset": "fast"}, {"n_probe": 2, "n_tokens": 30, "n_rerank": 20}):
            scores, rows = compressed.search_batch(queries, 7, mask.expand(3, -1), **limits)
            for query, own_scores, own_rows in zip(queries, scores, rows, strict=True):
                single = compressed.search(query, 7, mask, **limits)
                assert np.array_equal(single.indices, own_rows) and np.array_equal(single.scores, own_scores)

    @settings(max_examples=30, deadline=None)
    @given(allowed=st.sets(st.integers(0, 199)), k=st.integers(1, 250), n_rerank=st.integers(1, 60))
    def test_as_many_allowed_as_there_are(self, compressed, allowed, k, n_rerank):
        ids = [f"p{row}" for row in allowed]
        _, rows = compressed.search(random_queries(1)[0], k, allowed_ids=ids, n_probe=1, n_tokens=5, n_rerank=n_rerank)
        assert len(set(rows)) == len(rows) == min(k, len(allowed)) and {*rows} <= allowed

    def test_explain_sums_to_the_score(self, compressed):
        query, mask = random_queries(1)[0], np.array([True, True, False, True, True])
        scores, rows = compressed.search(query, k=3, query_mask=mask)
        for score, row in zip(scores, rows, strict=True):
            matches = compressed.explain(query, compressed.ids[row], mask)
            assert [match.query_token for match in matches] == [0, 1, 3, 4]
            assert sum(match.similarity for match in matches) == pytest.approx(score, abs=1e-4)
            exact = random_embeddings(200, seed=4)[row]
            for match in matches:
                similarity = float(query[match.query_token].numpy() @ exact[match.passage_token])
                assert match.similarity == pytest.approx(similarity, abs=0.03)

    def test_progress(self, compressed, monkeypatch):
        bars = []

        class Bar:
            def __init__(self, **options):
                self.options, self.done = options, 0
                bars.append(self)

            def __enter__(self):
                return self

            def __exit__(self, *exception):
                pass

            def update(self, number):
                self.done += number

        monkeypatch.setattr(late_interaction, "progress_bar", Bar)
        queries = random_queries(150)
        compressed.search_batch(queries, 2)
        compressed.search_batch(queries, 2, progress=False)
        assert [bar.done for bar in bars] == [150, 150] and [bar.options["show"] for bar in bars] == [True, False]
        assert bars[0].options["total"] == 150

    def test_wrong_limits(self, compressed):
        with pytest.raises(ValueError, match="`preset` must be one of"):
            compressed.search(random_queries(1)[0], preset="quick")
        with pytest.raises(ValueError, match="`n_probe` must be a positive integer, got 0"):
            compressed.search_batch(random_queries(1), n_probe=0)
