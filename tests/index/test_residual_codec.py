"""The residual codec: packing, rotation, accuracy, and what a query's products are made of."""

import numpy as np
import pytest
import torch

from hf_xlir.index.late_interaction import codec as residual_codec
from hf_xlir.index.late_interaction.codec import (
    ResidualCodec,
    nearest_centroids,
    random_rotation,
    rotations_for,
    split_records,
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
    monkeypatch.setattr(residual_codec, "TOKENS_PER_BLOCK", 2)
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
