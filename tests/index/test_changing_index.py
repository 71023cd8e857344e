"""Passages that come, change and go; what puts an index in order, and when; merged indexes; bad input."""

import copy
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_tokens import DIM, made_up, queries_like

from hf_xlir.index import DenseEmbeddings, LateInteractionIndex, TokenEmbeddings
from hf_xlir.index.late_interaction import contents, maintenance
from hf_xlir.index.late_interaction.passage_ids import PassageIds
from hf_xlir.index.late_interaction.segments import joined
from hf_xlir.index.late_interaction.tokens import CompressedTokens, ExactTokens


def renamed(embeddings, prefix):
    return TokenEmbeddings(embeddings.values, embeddings.lengths, [prefix + id for id in embeddings.ids])


def part_of(embeddings, rows):
    values = np.concatenate([embeddings[row] for row in rows])
    return TokenEmbeddings(values, embeddings.lengths[rows], [embeddings.ids[row] for row in rows])


def renamed_index(index, prefix):
    ids = PassageIds.of([prefix + id for id in index.ids])
    return LateInteractionIndex(replace(index.contents, ids=ids), index.settings)


def exact_scores(embeddings, query):
    return {
        id: float((query.double().numpy() @ embeddings[row].T).max(axis=1).sum())
        for row, id in enumerate(embeddings.ids)
    }


def sizes(index):
    return [len(segment.tokens) for segment in index.contents.segments]


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(maintenance, "TOKENS_JOINED_ANYWAY", 0)


class TestBuild:
    def test_automatic_is_exact_while_small(self, monkeypatch):
        embeddings = made_up()
        assert isinstance(LateInteractionIndex.build(embeddings).contents.segments[0].tokens, ExactTokens)
        monkeypatch.setattr(maintenance, "MOST_EXACT_TOKENS", len(embeddings.values) - 1)
        tokens = LateInteractionIndex.build(embeddings).contents.segments[0].tokens
        assert isinstance(tokens, CompressedTokens) and tokens.codec.nbits == 4
        exact = LateInteractionIndex.build(embeddings, nbits=None)
        assert exact.contents.segments[0].tokens.arrays["values"] is embeddings.values

    def test_automatic_is_compressed_when_it_grows(self, monkeypatch):
        embeddings = made_up()
        monkeypatch.setattr(maintenance, "MOST_EXACT_TOKENS", len(embeddings.values))
        index = LateInteractionIndex.build(embeddings)
        index.add(renamed(made_up(1, seed=3), "x"))
        [segment] = index.contents.segments
        assert isinstance(segment.tokens, CompressedTokens) and len(index) == 61
        index.remove(index.ids[5:])  # small again, but what is compressed stays so, and what is added becomes so
        index.add(renamed(made_up(1, seed=4), "y"))
        assert len(index) == 6 and all(segment.training is not None for segment in index.contents.segments)

    @pytest.mark.parametrize("nbits", [1, 2, 3, 4, 8])
    def test_bits(self, nbits):
        index = LateInteractionIndex.build(made_up(), nbits)
        assert index.contents.training.codec.nbits == nbits
        tokens = index.contents.segments[0].tokens
        assert tokens.arrays["records"].shape == (index.num_tokens, 4 + DIM * nbits // 8)

    def test_the_same_seed_gives_the_same_index(self):
        embeddings, queries = made_up(), queries_like(made_up())[0]
        first, second, other = (LateInteractionIndex.build(embeddings, 2, seed=seed) for seed in (7, 7, 8))
        for name, array in first.contents.segments[0].tokens.arrays.items():
            np.testing.assert_array_equal(array, second.contents.segments[0].tokens.arrays[name])
        assert np.array_equal(first.search_batch(queries).total_scores, second.search_batch(queries).total_scores)
        assert not np.array_equal(first.search_batch(queries).total_scores, other.search_batch(queries).total_scores)

    def test_num_centroids(self):
        index = LateInteractionIndex.build(made_up(), 4, num_centroids=7)
        assert len(index.contents.training.codec.centroids) == 7
        assert len(LateInteractionIndex.build(made_up(3), 4).contents.training.codec.centroids) < 10

    def test_nbytes(self):
        index = LateInteractionIndex.build(made_up(), 4, num_centroids=8)
        tokens = index.contents.segments[0].tokens
        assert index.nbytes == tokens.nbytes + 8 * DIM * 2 + 2 * DIM * DIM * 4

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"nbits": 5}, r"must be one of \[1, 2, 3, 4, 8\], got 5"),
            ({"nbits": "4"}, "got '4'"),
            ({"nbits": True}, "got True"),
            ({"num_centroids": 0}, "`num_centroids` .* got 0"),
            ({"nbits": 4, "num_centroids": 10**5}, "must be 1 to 32768"),
            ({"pooling_factor": 0}, "`pooling_factor` .* got 0"),
            ({"pooling_factor": None}, "got None"),
            ({"seed": 0.5}, "`seed` must be an integer of at least 0, got 0.5"),
        ],
    )
    def test_wrong_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            LateInteractionIndex.build(made_up(), **options)


class TestKindsOfVectors:
    """Lists of arrays or tensors, and padded ones, give the index of the same `TokenEmbeddings`."""

    @pytest.mark.parametrize("nbits", [None, 4])
    def test_equal_to_token_embeddings(self, nbits):
        embeddings, (queries, _) = made_up(20), queries_like(made_up())
        arrays = [embeddings[row] for row in range(20)]
        padded, mask = np.full((20, 9, DIM), np.nan, "float32"), np.zeros((20, 9), dtype=bool)
        for row, array in enumerate(arrays):
            padded[row, : len(array)], mask[row, : len(array)] = array, True
        index = LateInteractionIndex.build(embeddings, nbits)
        index.add(renamed(embeddings, "x"))
        index.update(part_of(embeddings, [3]))
        expected = index.search_batch(queries, 40, preset="exact")
        more = [f"x{id}" for id in embeddings.ids]
        for vectors, options in (
            (arrays, {}),
            ([torch.from_numpy(array).requires_grad_() for array in arrays], {}),
            (tuple(arrays), {}),
            (padded, {"mask": mask}),
            (torch.from_numpy(padded), {"mask": torch.from_numpy(mask)}),
        ):
            index = LateInteractionIndex.build(vectors, nbits, ids=embeddings.ids, **options)
            index.add(vectors, ids=more, **options)
            index.update([vectors[3][: len(arrays[3])]], ids=["p3"])
            found = index.search_batch(queries, 40, preset="exact")
            assert index.ids == embeddings.ids + more
            assert np.array_equal(found.total_scores, expected.total_scores)

    def test_precision(self):
        for dtype, kept in (("float16", "float16"), ("bfloat16", "float32"), ("float32", "float32")):
            vectors = [torch.ones(2, 4, dtype=getattr(torch, dtype))]
            index = LateInteractionIndex.build(vectors, ids=["a"])
            assert index.contents.segments[0].tokens.arrays["values"].dtype == kept
        assert len(LateInteractionIndex.build(np.ones((2, 3, 4)), ids=["a", "b"])) == 2

    @pytest.mark.parametrize(
        "vectors, options, message",
        [
            ([np.ones((2, 4))], {}, "`ids`.* 1 in all, got None"),
            ([np.ones((2, 4))], {"ids": ["a", "b"]}, "got 2 ids"),
            ([np.ones((2, 4))], {"ids": "a"}, "got 'a'"),
            ([np.ones((2, 4))], {"ids": [7]}, "strings, got 7"),
            ([np.ones((2, 4)), np.ones((2, 5))], {"ids": ["a", "b"]}, r"\[4, 5\]"),
            ([np.ones(4)], {"ids": ["a"]}, r"`a`.* got ndarray of float64 and shape \(4,\)"),
            ([np.ones((2, 4), int)], {"ids": ["a"]}, "`a`"),
            ([[[1.0]]], {"ids": ["a"]}, "`a`.* got list"),
            ([np.ones((0, 4))], {"ids": ["a"]}, "`a` keeps no token"),
            ([np.ones((2, 4))], {"ids": ["a"], "mask": np.ones((1, 2), bool)}, "`mask`"),
            (np.ones((1, 2, 4)), {"ids": ["a"], "mask": np.ones((1, 3), bool)}, "mask"),
            (np.ones((1, 4)), {"ids": ["a"]}, "DenseIndex"),
            (None, {}, "got NoneType"),
            (made_up(), {"ids": ["a"]}, "leave `ids`"),
        ],
    )
    def test_what_is_refused(self, vectors, options, message):
        with pytest.raises(ValueError, match=message):
            LateInteractionIndex.build(vectors, **options)


class TestUnnormalisedVectors:
    @pytest.mark.parametrize(("nbits", "tolerance"), [(None, 1e-5), (8, 0.01), (4, 0.1)])
    def test_lengths_are_kept(self, nbits, tolerance):
        embeddings, query = made_up(), queries_like(made_up())[0][0]
        lengths = np.random.default_rng(0).uniform(0.1, 20, (len(embeddings.values), 1)).astype(np.float32)
        longer = TokenEmbeddings(embeddings.values * lengths, embeddings.lengths, embeddings.ids)
        index = LateInteractionIndex.build(longer, nbits)
        scores, rows = index.search(query, k=60, preset="exact")
        expected = exact_scores(longer, query)
        np.testing.assert_allclose(scores, [expected[index.ids[row]] for row in rows], atol=60 * tolerance)

    def test_a_zero_vector(self):
        embeddings = TokenEmbeddings(np.zeros((3, DIM), dtype=np.float32), np.array([1, 2]), ["a", "b"])
        for nbits in (None, 1, 4):
            scores, _ = LateInteractionIndex.build(embeddings, nbits).search(torch.ones(1, DIM))
            np.testing.assert_allclose(scores, [0, 0], atol=1e-6)


class TestChanges:
    @pytest.mark.parametrize("nbits", [None, 8])
    def test_equal_to_a_fresh_index(self, nbits):
        """Added, updated and removed in several steps, and built at once."""
        first, more, other = made_up(40), renamed(made_up(30, seed=1), "x"), made_up(20, seed=2)
        index = LateInteractionIndex.build(first, nbits)
        index.add(more)
        index.update(part_of(other, [19, 3, 11]))
        index.remove(["p0", "xp29", "p20"])
        assert index.ids == [f"p{i}" for i in range(40) if i not in (0, 20)] + [f"xp{i}" for i in range(29)]
        now = [other if id in ("p3", "p11", "p19") else more if id[0] == "x" else first for id in index.ids]
        vectors = [source[source.ids.index(id)] for source, id in zip(now, index.ids, strict=True)]
        fresh = TokenEmbeddings(np.concatenate(vectors), np.array([len(v) for v in vectors]), list(index.ids))
        query = queries_like(first)[0][0]
        expected = exact_scores(fresh, query)
        scores, rows = index.search(query, k=100, preset="exact")
        assert sorted(rows) == list(range(67))
        np.testing.assert_allclose(
            scores, [expected[index.ids[row]] for row in rows], atol=1e-5 if nbits is None else 0.06
        )

    def test_nothing_to_do(self):
        index = LateInteractionIndex.build(made_up(), 4)
        before = index.contents.segments
        nothing = TokenEmbeddings(np.zeros((0, DIM), "float32"), np.zeros(0, np.int64), [])
        index.add(nothing)
        index.update(nothing)
        index.remove([])
        assert len(index) == 60 and [s.tokens for s in index.contents.segments] == [s.tokens for s in before]

    @pytest.mark.parametrize("nbits", ["auto", None, 4])
    def test_everything_is_removed_and_more_is_added(self, nbits, tmp_path):
        index = LateInteractionIndex.build(made_up(), nbits)
        index.remove(index.ids)
        queries = queries_like(made_up())[0]
        for empty in (index, _saved_and_loaded(index, tmp_path)):
            assert len(empty) == 0 and empty.ids == [] and empty.num_tokens == 0
            assert empty.search_batch(queries).total_indices.shape == (3, 0)
            assert len(empty.search(queries[0], allowed_ids=[]).scores) == 0
            empty.compact()
            empty.rebuild()
            with pytest.raises(ValueError, match="1 ids are not in this index"):
                empty.explain(queries[0], "p1")
            with pytest.raises(ValueError, match="8 dimensions, the index has 16"):
                empty.add(made_up(3, dim=8))
            empty.add(made_up(20))
            assert empty.ids == made_up(20).ids
            assert (empty.contents.training is None) == (nbits != 4)
            assert len(empty.search(queries[0], k=50).indices) == 20

    @pytest.mark.parametrize("nbits", [None, 4])
    def test_equal_scores_come_in_the_order_of_rows(self, nbits, small_segments):
        one = made_up(1)
        copies = TokenEmbeddings(np.tile(one.values, (6, 1)), np.tile(one.lengths, 6), list("abcdef"))
        index = LateInteractionIndex.build(copies, nbits, num_centroids=1)
        index.update(part_of(copies, [4, 1, 0]), maintain=False)
        index.add(renamed(copies, "x"), maintain=False)
        assert sizes(index) == [6, 3, 6]
        for k in (1, 2, 8):
            assert index.search(one.values[:1], k).indices.tolist() == list(range(k))

    def test_a_search_that_has_begun_sees_what_there_was(self):
        index = LateInteractionIndex.build(made_up(), 4)
        before, rows = index.contents, index.contents.segments[0].rows(index.ids)
        index.remove(["p0"])
        index.update(part_of(made_up(), [3]))
        assert len(before.ids) == 60 and np.array_equal(before.segments[0].rows(before.ids), rows)

    @pytest.mark.parametrize("nbits", [None, 4])
    def test_copies_share_nothing_that_changes(self, nbits):
        index = LateInteractionIndex.build(made_up(), nbits)
        queries = queries_like(made_up())[0]
        expected = index.search_batch(queries).total_scores
        for other in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
            other.remove(["p1"])
            assert len(other) == 59
            assert len(index) == 60 and np.array_equal(index.search_batch(queries).total_scores, expected)


class TestMaintenance:
    def test_small_segments_become_one(self, small_segments):
        index = LateInteractionIndex.build(made_up(100), 4, num_centroids=4)
        largest = index.contents.segments[0].tokens
        for seed in range(2, 6):
            index.add(renamed(made_up(4, seed=seed), f"{seed}."))
        assert sizes(index) == [100, 16] and index.contents.segments[0].tokens is largest
        index.add(renamed(made_up(30, seed=9), "y"))
        assert sizes(index) == [146]
        assert (index.contents.segments[0].rows(index.ids) == np.arange(146)).all()

    def test_tiny_segments_become_one_whatever_their_ratio(self):
        index = LateInteractionIndex.build(made_up(100), 4, num_centroids=4)
        index.add(renamed(made_up(1), "x"))
        assert sizes(index) == [101]

    @pytest.mark.parametrize("nbits", [None, 4])
    def test_a_quarter_removed(self, nbits):
        embeddings = TokenEmbeddings(made_up(40, longest=1).values, np.ones(40, dtype=np.int64), made_up(40).ids)
        index = LateInteractionIndex.build(embeddings, nbits)
        index.remove(index.ids[:10])
        assert sizes(index) == [40] and index.num_tokens == 30
        index.remove(index.ids[:1], maintain=False)
        assert sizes(index) == [40]
        index.remove(index.ids[:1])
        assert sizes(index) == [28]

    def test_joined_codes_are_copied(self, small_segments):
        """Against the bytes of the segments, passage by passage."""
        index = LateInteractionIndex.build(made_up(20), 4, num_centroids=5)
        index.add(renamed(made_up(9, seed=4, longest=300), "x"), maintain=False)
        index.update(part_of(made_up(20, seed=8), [7, 2]), maintain=False)
        index.remove(["p5", "xp3"], maintain=False)
        before, segment = index.contents.segments, joined(list(index.contents.segments))
        assert len(segment.tokens) == 27 and segment.tokens.arrays["cell_positions"].dtype == np.int32
        for place, slot in enumerate(segment.slots):
            [(owner, old)] = [
                (each, each.places(np.array([slot]))[0]) for each in before if len(each.places(np.array([slot])))
            ]
            np.testing.assert_array_equal(_of(segment, "records", place), _of(owner, "records", old))
        queries = queries_like(made_up())[0]
        expected = index.search_batch(queries, k=30, preset="exact")
        index.compact()
        found = index.search_batch(queries, k=30, preset="exact")
        assert sizes(index) == [27]
        np.testing.assert_allclose(found.total_scores, expected.total_scores, atol=1e-5)
        weights = [each.tokens.num_tokens for each in before]
        assert segment.residual == pytest.approx(np.average([each.residual for each in before], weights=weights))

    def test_growth_trains_anew(self):
        index = LateInteractionIndex.build(made_up(20), 4)
        codec, tokens = index.contents.training.codec, index.num_tokens
        more = renamed(made_up(200, seed=0), "x")
        least = int(np.searchsorted(np.cumsum(more.lengths), 3 * tokens, side="right"))
        index.add(part_of(more, range(least)), maintain=False)  # not more than 4 times the tokens
        assert index.contents.training.codec is codec
        index.add(part_of(more, [least]))
        training = index.contents.training
        assert training.codec is not codec and len(training.codec.centroids) > len(codec.centroids)
        assert training.num_tokens == index.num_tokens and sizes(index) == [len(index)]

    def test_vectors_of_another_kind_train_anew(self):
        generator = np.random.default_rng(0)

        def around(centre, name, number=60, deviation=0.1):
            values = centre + deviation * generator.standard_normal((number, DIM))
            return TokenEmbeddings(
                values.astype("float32"), np.ones(number, np.int64), [f"{name}{i}" for i in range(number)]
            )

        here, there = np.eye(DIM)[0], np.eye(DIM)[1]
        index = LateInteractionIndex.build(around(here, "a", 200), 4, num_centroids=8)
        codec = index.contents.training.codec
        index.add(around(here, "b", 150))
        assert index.contents.training.codec is codec
        index.add(around(there, "c", 30), maintain=False)
        assert index.contents.training.codec is codec
        index.remove(["a0"])
        assert index.contents.training.codec is not codec
        _, rows = index.search(there[None], k=30)
        assert {index.ids[row][0] for row in rows} == {"c"}

    @pytest.mark.parametrize(
        "sizes, residuals, message",
        [
            # usual is 0.9 * (10 + 1) / (10 - 1) = 1.1, and the limit 1.21
            ((1000,), (1.2,), None),
            ((1000,), (1.22,), "mean squared distance from centroids is 1.2200 instead of 1.1000"),
            ((900, 100), (1.1, 2.1), None),
            ((900, 100), (1.1, 2.3), "distance from centroids is 1.2200"),
            ((3000, 1000), (0.9, 0.9), None),
            ((3000, 1001), (0.9, 0.9), "it has 4001 vectors, but its codec was trained on 1000"),
        ],
    )
    def test_the_limits(self, sizes, residuals, message):
        training = SimpleNamespace(num_tokens=1000, codec=SimpleNamespace(centroids=range(100)), residual=0.9)
        pairs = zip(sizes, residuals, strict=True)
        segments = [SimpleNamespace(num_live_tokens=size, residual=far) for size, far in pairs]
        reason = maintenance._reason_to_rebuild(segments, training)
        assert reason == message if message is None else message in reason

    def test_what_another_codec_holds_does_not_count(self):
        large, small = LateInteractionIndex.build(made_up(), 4), LateInteractionIndex.build(made_up(9, seed=8), 4)
        small.contents = replace(
            small.contents, segments=tuple(replace(each, residual=100.0) for each in small.contents.segments)
        )
        for shards in ((large, renamed_index(small, "x")), (renamed_index(small, "x"), large)):
            merged = LateInteractionIndex.merge(shards)
            training = merged.contents.training
            assert training is large.contents.training  # that of the most tokens
            merged.add(renamed(made_up(9), "y"))
            assert merged.contents.training is training and len(merged.contents.segments) == 2

    def test_rebuilt_from_originals(self):
        embeddings = made_up()
        index = LateInteractionIndex.build(part_of(embeddings, range(10)), 4)
        index.add(part_of(embeddings, range(10, 60)), maintain=False)
        index.remove(["p7"])
        index.rebuild(part_of(embeddings, np.random.default_rng(0).permutation(60)))
        fresh = LateInteractionIndex.build(part_of(embeddings, [i for i in range(60) if i != 7]), 4)
        assert index.ids == fresh.ids
        for name, array in fresh.contents.segments[0].tokens.arrays.items():
            np.testing.assert_array_equal(index.contents.segments[0].tokens.arrays[name], array)

    def test_rebuilt_from_what_is_stored(self):
        embeddings = made_up()
        index = LateInteractionIndex.build(embeddings, 8)
        codec, queries = index.contents.training.codec, queries_like(embeddings)[0]
        expected = index.search_batch(queries, 60, preset="exact").total_scores
        index.rebuild()
        assert index.contents.training.codec is not codec
        np.testing.assert_allclose(index.search_batch(queries, 60, preset="exact").total_scores, expected, atol=0.05)

    def test_originals_that_do_not_fit(self):
        index = LateInteractionIndex.build(made_up(), 4)
        with pytest.raises(ValueError, match=r"lacks 2 passages of this index, such as \['p58', 'p59'\]"):
            index.rebuild(made_up(58))
        with pytest.raises(ValueError, match="8 dimensions, the index has 16"):
            index.rebuild(made_up(dim=8))


class TestMerge:
    @pytest.mark.parametrize("nbits", [None, 4, "auto"])
    def test_finds_what_the_shards_find(self, nbits):
        shards = [renamed(made_up(30 + 5 * seed, seed=seed), f"{seed}.") for seed in range(3)]
        indexes = [LateInteractionIndex.build(shard, nbits) for shard in shards]
        indexes[1].remove(["1.p3"])
        merged, queries = LateInteractionIndex.merge(indexes), queries_like(shards[1])[0]
        assert merged.ids == [id for index in indexes for id in index.ids]
        for options in ({"preset": "exact"}, {"n_probe": 2, "n_tokens": 20, "n_rerank": 12}):
            scores, rows = merged.search_batch(queries, k=12, **options)
            for query, own_scores, own_rows in zip(queries, scores, rows, strict=True):
                found = []
                for index in indexes:
                    result = index.search(query, k=12, **options)
                    found += [(-score, index.ids[row]) for score, row in zip(*result, strict=True)]
                best = sorted(found)[:12]
                assert [merged.ids[row] for row in own_rows] == [id for _, id in best]
                np.testing.assert_allclose(own_scores, [-score for score, _ in best], atol=1e-6)

    def test_goes_on_alone(self, tmp_path):
        indexes = [LateInteractionIndex.build(renamed(made_up(seed=seed), f"{seed}."), 4) for seed in range(2)]
        merged = _saved_and_loaded(LateInteractionIndex.merge(indexes), tmp_path)
        assert len({id(segment.training) for segment in merged.contents.segments}) == 2
        merged.add(renamed(made_up(9, seed=5), "x"))
        merged.remove(["0.p1"])
        assert len(merged) == 128 and len(indexes[0]) == 60
        merged.compact()
        assert len(merged.contents.segments) == 2
        merged.rebuild()
        assert sizes(merged) == [128]

    def test_shards_that_do_not_fit(self):
        index = LateInteractionIndex.build(made_up(), 4)
        with pytest.raises(ValueError, match="`indexes` is empty"):
            LateInteractionIndex.merge([])
        with pytest.raises(ValueError, match=r"58 ids are in several indexes, such as \['p0'"):
            LateInteractionIndex.merge([index, LateInteractionIndex.build(made_up(58), 4)])
        for other in (
            LateInteractionIndex.build(made_up(), 8),
            LateInteractionIndex.build(made_up(), 4, pooling_factor=2),
            LateInteractionIndex.build(made_up(dim=8), 4),
        ):
            with pytest.raises(ValueError, match="the same `embedding_dim`, `nbits` and `pooling_factor`, got"):
                LateInteractionIndex.merge([index, other])


class TestPooling:
    @pytest.mark.parametrize("nbits", [None, 4])
    def test_what_is_added_later_is_pooled_too(self, nbits, tmp_path):
        embeddings = made_up(20)
        index = LateInteractionIndex.build(embeddings, nbits, pooling_factor=2)
        index = _saved_and_loaded(index, tmp_path)
        pooled = int((-(-embeddings.lengths // 2)).sum())
        assert index.num_tokens == pooled < len(embeddings.values)
        index.add(renamed(embeddings, "x"))
        assert index.num_tokens == 2 * pooled
        index.update(embeddings)
        index.rebuild(
            TokenEmbeddings(
                np.tile(embeddings.values, (2, 1)),
                np.tile(embeddings.lengths, 2),
                embeddings.ids + [f"x{id}" for id in embeddings.ids],
            )
        )
        assert index.num_tokens == 2 * pooled


class TestBadInput:
    @pytest.mark.parametrize("nbits", [None, 4])
    def test_nothing_is_changed(self, nbits):
        index = LateInteractionIndex.build(made_up(), nbits)
        before = index.contents
        nan, long, other = made_up(5, seed=1), made_up(5, seed=1), made_up(5, seed=1)
        nan.values[nan.offsets[3]] = np.nan
        long.values[long.offsets[2], 4] = -1e5
        known, unknown = other, renamed(other, "x")
        for change, argument, message in (
            (
                index.add,
                renamed(nan, "x"),
                "The passage `xp3` has a NaN or infinite value in its vectors, or a vector",
            ),
            (
                index.add,
                renamed(long, "x"),
                "The passage `xp2` has a NaN or infinite value .* or a vector longer than 60,000",
            ),
            (index.update, nan, "The passage `p3` has a NaN"),
            (index.add, made_up(5, dim=8), "have 8 dimensions, the index has 16: embed with the model"),
            (index.update, made_up(5, dim=8), "have 8 dimensions"),
            (index.add, known, r"5 ids are in this index already, such as \['p0', .*: `update` replaces"),
            (index.update, unknown, r"5 ids are not in this index, such as \['xp0'"),
            (index.remove, ["p1", "y", "x"], r"2 ids are not in this index, such as \['x', 'y'\]"),
            (index.remove, "p1", r"got one string: use `\['p1'\]`"),
            (index.add, DenseEmbeddings(np.zeros((1, DIM)), ["a"]), "got DenseEmbeddings"),
            (index.add, np.zeros((2, DIM)), r"got ndarray of float64 and shape \(2, 16\)"),
        ):
            with pytest.raises(ValueError, match=message):
                change(argument)
            assert index.contents is before

    def test_a_nan_is_found_before_the_training(self, monkeypatch):
        monkeypatch.setattr(maintenance, "train", lambda *args: pytest.fail("trained"))
        monkeypatch.setattr(contents, "TOKENS_PER_CHECK", 7)
        embeddings = made_up()
        embeddings.values[embeddings.offsets[41] - 1, 2] = np.inf
        with pytest.raises(ValueError, match="The passage `p40` has"):
            LateInteractionIndex.build(embeddings, 4)

    def test_passages_and_ids_that_cannot_be(self):
        with pytest.raises(ValueError, match="Passage `b` keeps no token"):
            TokenEmbeddings(np.zeros((1, DIM), "float32"), np.array([1, 0]), ["a", "b"])
        with pytest.raises(ValueError, match="The id `a` appears twice"):
            TokenEmbeddings(np.zeros((2, DIM), "float32"), np.array([1, 1]), ["a", "a"])


def _saved_and_loaded(index, path):
    index.save(path / "index")
    return LateInteractionIndex.load(path / "index")


def _of(segment, name, place):
    start, stop = segment.tokens.arrays["offsets"][place : place + 2]
    return segment.tokens.arrays[name][start:stop]
