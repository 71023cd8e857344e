"""The codec: rotations, centroids, accuracy, packed bits, and what a query's products are made of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.index import TokenEmbeddings
from hf_xlir.index.late_interaction import codec as codec_module
from hf_xlir.index.late_interaction.codec import (
    CentroidAssigner,
    ResidualCodec,
    nearest_centroids,
    num_centroids_for,
    pack,
    random_rotation,
    rotations_for,
    second_moments,
    split_records,
    train_centroids,
    train_codec,
    unpack,
)


# Least mean squared error of a Gaussian at that many bits (Max 1960), which equally spaced levels come near
LEAST_ERRORS = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}


def unit_vectors(num_vectors, dim, seed=0):
    vectors = torch.randn(num_vectors, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


def codec_of(dim, nbits, num_centroids=7):
    rotation = random_rotation(dim, seed=0)
    return ResidualCodec(unit_vectors(num_centroids, dim, seed=1) @ rotation, rotation, nbits)


@pytest.mark.parametrize("dim", [1, 8, 13, 128])
def test_rotation_keeps_inner_products(dim):
    rotation = random_rotation(dim, seed=3)
    assert rotation.shape == (dim, -(-dim // 8) * 8)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(dim), atol=1e-5, rtol=0)
    assert torch.equal(rotation, random_rotation(dim, seed=3))
    assert not torch.equal(rotation, random_rotation(dim, seed=4))


@pytest.mark.parametrize("nbits", [1, 2, 3, 4])
def test_error_is_near_the_least_for_a_gaussian(nbits):
    vectors = unit_vectors(4000, 128)
    rotation = random_rotation(128, seed=0)
    codec = ResidualCodec(torch.zeros(1, 128), rotation, nbits)
    decoded = codec.decode(codec.encode(vectors))
    cosines = torch.nn.functional.cosine_similarity(decoded, vectors)
    error = float((1 - cosines.square()).mean())  # of the best factor, whichever factor is kept
    assert LEAST_ERRORS[nbits] * 0.97 < error < LEAST_ERRORS[nbits] * 1.1


def test_eight_bits_are_nearly_exact():
    vectors = unit_vectors(500, 24)
    codec = codec_of(24, 8)
    assert (codec.decode(codec.encode(vectors)) - vectors).norm(dim=1).max() < 0.015


@pytest.mark.parametrize("nbits", [1, 2, 4])
def test_inner_product_with_the_vector_itself_has_no_bias(nbits):
    vectors = unit_vectors(2000, 64)
    codec = codec_of(64, nbits)
    residuals = vectors - (codec.centroids @ codec.rotation.T)[nearest_centroids(vectors, codec)]
    decoded = codec.decode(codec.encode(vectors))
    torch.testing.assert_close((decoded * residuals).sum(1), (vectors * residuals).sum(1), atol=2e-3, rtol=0)


@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dim", [8, 20])
def test_a_query_prepared_for_scoring_gives_the_decoded_inner_products(nbits, dim):
    codec = codec_of(dim, nbits)
    vectors, query = unit_vectors(50, dim, seed=5), unit_vectors(4, dim, seed=6)
    records, prepared = codec.encode(vectors), codec.rotate_query(query)
    cells, scales, codes = split_records(records)
    levels = unpack(codes, nbits).double() @ prepared.levels.double() + prepared.shifts
    products = prepared.cell_scores[cells.long()] + scales.double()[:, None] * levels
    expected = codec.decode(records) @ query.T
    products = products * prepared.scales
    torch.testing.assert_close(products[:, :4], expected.double(), atol=0.01, rtol=0)
    assert products.shape == (50, 16) and not products[:, 4:].any()


def test_centroids_themselves_and_zero_vectors_stay_what_they_are():
    codec = codec_of(16, 2)
    centroids = codec.centroids @ codec.rotation.T
    torch.testing.assert_close(codec.decode(codec.encode(centroids)), centroids, atol=1e-5, rtol=0)
    codec = ResidualCodec(torch.zeros(1, 16), random_rotation(16, 0), 4)
    assert codec.decode(codec.encode(torch.zeros(2, 16))).abs().max() == 0


def test_norms_are_kept():
    codec = codec_of(32, 4)
    vectors = unit_vectors(200, 32) * torch.linspace(0.1, 1000, 200)[:, None]
    decoded = codec.decode(codec.encode(vectors))
    assert ((decoded - vectors).norm(dim=1) / vectors.norm(dim=1).clamp_min(1)).max() < 0.2


@pytest.mark.parametrize("nbits", [1, 2, 8])
def test_the_longest_vectors_of_two_dimensions_stay_finite(nbits):
    vectors = 60_000 * unit_vectors(200, 2)
    codec = ResidualCodec(torch.tensor([[60_000.0] + [0] * 7]), random_rotation(2, seed=0), nbits)
    assert codec.decode(codec.encode(vectors)).isfinite().all()


def test_given_cells_are_used_and_nearest_is_the_default():
    codec = codec_of(16, 4, num_centroids=3)
    vectors = unit_vectors(9, 16)
    centroids = (codec.centroids @ codec.rotation.T).double().numpy()
    distances = np.linalg.norm(vectors.double().numpy()[:, None] - centroids, axis=2)
    assert split_records(codec.encode(vectors))[0].tolist() == distances.argmin(axis=1).tolist()
    assert split_records(codec.encode(vectors, torch.full((9,), 2)))[0].tolist() == [2] * 9


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_blocks_do_not_matter(num_tokens, monkeypatch):
    codec, vectors = codec_of(16, 3), unit_vectors(num_tokens, 16)
    whole = codec.encode(vectors)
    assert whole.shape == (num_tokens, 4 + 6)
    monkeypatch.setattr(codec_module, "TOKENS_PER_BLOCK", 2)
    assert torch.equal(codec.encode(vectors), whole)


def test_a_codec_is_its_arrays():
    codec, vectors = codec_of(16, 4), unit_vectors(30, 16)
    again = ResidualCodec.from_arrays(codec.arrays(), 4)
    assert torch.equal(again.encode(vectors), codec.encode(vectors))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"`nbits`.*one of \[1, 2, 3, 4, 8\], got 5"):
        codec_of(16, 5)
    with pytest.raises(ValueError, match="got True"):
        codec_of(16, True)
    with pytest.raises(ValueError, match="got 4.0"):
        codec_of(16, 4.0)
    with pytest.raises(ValueError, match="do not fit"):
        ResidualCodec(torch.zeros(3, 8), random_rotation(16, 0), 4)
    with pytest.raises(ValueError, match="Got 0 centroids, expected 1 to 32768"):
        ResidualCodec(torch.zeros(0, 16), random_rotation(16, 0), 4)


def moments_of(dim, seed):
    """Second moments of vectors that have more of some directions than of others."""
    vectors = torch.randn(500, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    vectors *= torch.logspace(0, -1, dim, dtype=torch.double).roll(seed)
    vectors = vectors @ random_rotation(dim, seed).double()[:, :dim]
    return vectors.T @ vectors / len(vectors)


def noise(passage_moments, query_moments, rotation, query_rotation):
    """Mean squared error of inner products, up to a factor: error is alike in all rotated dimensions."""
    spread = torch.trace(rotation.T.double() @ passage_moments @ rotation.double())
    return float(spread * torch.trace(query_rotation.T.double() @ query_moments @ query_rotation.double()))


class TestRotationsFor:
    @pytest.mark.parametrize("dim", [5, 16])
    def test_inner_products_stay(self, dim):
        rotation, query_rotation = rotations_for(moments_of(dim, 1), moments_of(dim, 2), seed=0)
        assert rotation.shape == query_rotation.shape == (dim, -(-dim // 8) * 8)
        torch.testing.assert_close(rotation @ query_rotation.T, torch.eye(dim), atol=1e-4, rtol=0)
        assert torch.linalg.matrix_norm(rotation, ord=2) < 1 + 1e-5

    def test_no_map_nearby_has_less_noise(self):
        passages, queries = moments_of(16, 1), moments_of(16, 6)
        rotation, query_rotation = (each.double() for each in rotations_for(passages, queries, seed=0))
        least = noise(passages, queries, rotation, query_rotation)
        # The least possible, from theory: the squared nuclear norm of the product of roots
        roots = [torch.linalg.cholesky(each) for each in (passages, queries)]
        bound = float(torch.linalg.matrix_norm(roots[0].T @ roots[1], ord="nuc") ** 2)
        assert bound * 0.999 < least < bound * 1.02  # a little is smoothed
        plain = random_rotation(16, 0)
        assert least < 0.7 * noise(passages, queries, plain, plain)
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            other = rotation + 0.05 * torch.randn(16, 16, generator=generator, dtype=torch.double) * rotation.std()
            assert noise(passages, queries, other, torch.linalg.inv(other).T) > least * 0.999

    def test_queries_like_passages_are_rotated_only(self):
        rotation, query_rotation = rotations_for(moments_of(16, 1), 4 * moments_of(16, 1), seed=3)
        torch.testing.assert_close(rotation, random_rotation(16, 3), atol=1e-4, rtol=0)
        torch.testing.assert_close(rotation, query_rotation, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("rank", [0, 1, 3])
    def test_passages_of_a_few_directions(self, rank):
        """The others are not lost: a vector that comes later keeps its inner products."""
        few = torch.zeros(8, 8, dtype=torch.double)
        few[:rank, :rank] = torch.eye(rank)
        rotation, query_rotation = rotations_for(few, moments_of(8, 2), seed=0)
        codec = ResidualCodec(torch.zeros(1, 8), rotation, 8, query_rotation)
        vectors = unit_vectors(50, 8)
        assert (codec.decode(codec.encode(vectors)) - vectors).norm(dim=1).max() < 0.06

    @pytest.mark.parametrize("nbits", [1, 2, 3, 4, 8])
    def test_codes_are_more_exact_for_such_queries(self, nbits):
        generator = torch.Generator().manual_seed(0)
        axis = torch.nn.functional.normalize(torch.randn(64, generator=generator), dim=0)
        queries = torch.nn.functional.normalize(axis + 0.05 * torch.randn(200, 64, generator=generator), dim=1)
        passages, centroids = unit_vectors(500, 64), torch.zeros(1, 64)
        moments = [(each.T @ each / len(each)).double() for each in (passages, queries)]
        rotations = rotations_for(*moments, seed=0)
        errors = []
        for codec in (
            ResidualCodec(centroids, rotations[0], nbits, rotations[1]),
            ResidualCodec(centroids, random_rotation(64, 0), nbits),
        ):
            errors.append(((codec.decode(codec.encode(passages)) - passages) @ queries.T).square().mean().sqrt())
        assert errors[0] < 0.6 * errors[1]


def test_alike_tokens_of_a_query_become_their_sum():
    codec = codec_of(16, 4)
    first, second = unit_vectors(2, 16, seed=3)
    near = torch.nn.functional.normalize(first + 0.1 * second, dim=0)
    query = torch.stack([first, second, near, 0.5 * second, -first])
    merged = codec.merge_alike(codec.rotate_query(query))
    expected = codec.rotate_query(torch.stack([first + near, 1.5 * second, -first]))
    assert int((merged.scales > 0).sum()) == 3
    for name in ("scales", "shifts"):
        torch.testing.assert_close(getattr(merged, name), getattr(expected, name), atol=1e-3, rtol=0.1)
    torch.testing.assert_close(merged.vectors, expected.vectors, atol=1e-5, rtol=0)
    scores, others = merged.cell_scores * merged.scales, expected.cell_scores * expected.scales
    torch.testing.assert_close(scores, others, atol=1e-5, rtol=0)


def test_tokens_are_alike_by_their_own_angle_and_not_by_that_of_stretched_ones():
    stretch = torch.diag(torch.tensor([0.1] + [1.0] * 7))
    codec = ResidualCodec(torch.zeros(1, 8), stretch, nbits=4, query_rotation=torch.linalg.inv(stretch))
    query = torch.zeros(2, 8)
    query[:, 0], query[0, 1], query[1, 2] = 1, 1, 1  # a cosine of a half, and rotated of 0.99
    merged = codec.merge_alike(codec.rotate_query(query))
    assert int((merged.scales > 0).sum()) == 2


def test_unlike_tokens_and_zeros_stay_apart():
    codec, query = codec_of(16, 4), unit_vectors(18, 16, seed=3)
    prepared = codec.rotate_query(torch.cat([query, torch.zeros(1, 16)]))
    merged = codec.merge_alike(prepared)
    torch.testing.assert_close(merged.vectors[:18], prepared.vectors[:18])
    assert merged.scales.shape == (32,) and not merged.scales[18:].any()
    assert not codec.merge_alike(codec.rotate_query(torch.zeros(2, 16))).scales.any()


def embeddings_of(vectors):
    return TokenEmbeddings(vectors, np.ones(len(vectors), dtype=np.int64), [str(i) for i in range(len(vectors))])


def clustered(num_vectors, num_clusters, dim=16, seed=0):
    generator = np.random.default_rng(seed)
    means = generator.standard_normal((num_clusters, dim))
    vectors = means[generator.integers(0, num_clusters, num_vectors)]
    vectors = vectors + 0.02 * generator.standard_normal((num_vectors, dim))
    return vectors.astype("float32")


@pytest.mark.parametrize(
    "num_tokens, expected", [(1, 1), (4, 1), (40, 10), (1024, 256), (10_000, 800), (2_530_000, 12725), (10**9, 32768)]
)
def test_number_of_centroids(num_tokens, expected):
    assert num_centroids_for(num_tokens) == expected


def test_well_separated_clusters_are_found():
    vectors = clustered(600, num_clusters=3)
    codec = train_codec(embeddings_of(vectors), nbits=4, num_centroids=12)
    cells = nearest_centroids(torch.from_numpy(vectors), codec)
    errors = torch.from_numpy(vectors) - (codec.centroids @ codec.rotation.T)[cells]
    assert errors.norm(dim=1).mean() < 0.2  # clusters are about 5 apart


def test_the_same_seed_gives_the_same_codec():
    embeddings = embeddings_of(clustered(900, num_clusters=40))
    first, second = (train_codec(embeddings, nbits=2, seed=3) for _ in range(2))
    other = train_codec(embeddings, nbits=2, seed=4)
    assert torch.equal(first.centroids, second.centroids) and torch.equal(first.rotation, second.rotation)
    assert not torch.equal(first.rotation, other.rotation)


def test_the_seed_draws_the_sample():
    embeddings = embeddings_of(clustered(900, num_clusters=40))  # of which 64 are read
    first, second = (train_codec(embeddings, nbits=2, num_centroids=2, seed=3) for _ in range(2))
    assert torch.equal(first.centroids, second.centroids)


def test_second_moments():
    assert second_moments(torch.tensor([[1.0, 2.0], [3.0, 0.0]])).tolist() == [[5, 1], [1, 2]]


def test_queries_are_taken_to_be_four_fifths_as_their_sample():
    vectors = clustered(200, num_clusters=40)
    passages, queries = (second_moments(torch.from_numpy(each)) for each in (vectors, clustered(50, 5, seed=1)))
    codec = train_codec(embeddings_of(vectors), nbits=4, num_centroids=20, seed=3, query_moments=queries.numpy())
    rotation, query_rotation = rotations_for(passages, 0.8 * queries + 0.2 * passages, seed=3)
    torch.testing.assert_close(codec.rotation, rotation)
    torch.testing.assert_close(codec.query_rotation, query_rotation)


@pytest.mark.parametrize("num_vectors", [1, 2, 5])
def test_never_more_centroids_than_vectors(num_vectors):
    codec = train_codec(embeddings_of(clustered(num_vectors, 2)), nbits=4, num_centroids=50)
    assert len(codec.centroids) == num_vectors


def test_the_sample_is_what_is_read():
    vectors = clustered(5000, num_clusters=4)
    codec = train_codec(embeddings_of(vectors.astype("float16")), nbits=4, num_centroids=4)
    assert codec.centroids.shape == (4, 16)


def test_groups_of_centroids_find_nearly_the_nearest():
    vectors = torch.from_numpy(clustered(6000, num_clusters=1500))
    codec = train_codec(embeddings_of(vectors.numpy()), nbits=4, num_centroids=1100)
    cells, nearest = CentroidAssigner(codec)(vectors), nearest_centroids(vectors, codec)
    assert cells.dtype == torch.int64
    assert (cells == nearest).float().mean() > 0.9


def test_few_centroids_are_all_compared():
    vectors = torch.from_numpy(clustered(300, num_clusters=30))
    codec = train_codec(embeddings_of(vectors.numpy()), nbits=4, num_centroids=25)
    assert torch.equal(CentroidAssigner(codec)(vectors), nearest_centroids(vectors, codec))


def test_as_many_centroids_as_vectors_are_the_vectors():
    vectors = torch.from_numpy(clustered(7, num_clusters=7))
    assert torch.equal(train_centroids(vectors, 7, seed=0), vectors)


def test_what_cannot_be_trained_is_refused():
    embeddings = embeddings_of(clustered(10, 2))
    with pytest.raises(ValueError, match="`nbits`"):
        train_codec(embeddings, nbits=6)
    with pytest.raises(ValueError, match="`num_centroids` must be 1 to 32768, got 0"):
        train_codec(embeddings, nbits=4, num_centroids=0)
    with pytest.raises(ValueError, match="no vectors"):
        train_codec(embeddings_of(np.zeros((0, 16), dtype="float32")), nbits=4)


def test_packed_bytes_are_these():
    levels = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 15]])
    # A byte holds dimensions i and i + 4: 1 + 16 * 5, 2 + 16 * 6, 3 + 16 * 7, 4 + 16 * 15
    assert pack(levels, 4).tolist() == [[81, 98, 115, 244]]
    assert pack(levels % 4, 2).tolist() == [[1 + 4 * 3 + 16 * 1 + 64 * 3, 2 + 4 * 0 + 16 * 2 + 64 * 3]]
    assert pack(levels % 2, 1).tolist() == [[0b11010101]]
    # Three bits: the lower two as above, then the third
    assert pack(levels % 8, 3).tolist() == [[221, 226, 0b11111000]]
    assert pack(torch.tensor([[-128, -1, 0, 1, 127, 0, 0, 0]]), 8).tolist() == [[128, 255, 0, 1, 127, 0, 0, 0]]


@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 8])
@given(num_tokens=st.integers(0, 5), eighths=st.integers(1, 5), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_unpacking_reverses_packing(nbits, num_tokens, eighths, seed):
    lowest = -128 if nbits == 8 else 0
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(lowest, lowest + 2**nbits, (num_tokens, 8 * eighths), generator=generator)
    codes = pack(levels, nbits)
    assert codes.dtype == torch.uint8 and codes.shape == (num_tokens, eighths * nbits)
    assert torch.equal(unpack(codes, nbits), levels.to(torch.int8))
