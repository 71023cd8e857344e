"""The residual codec: packing, rotation, accuracy, and what a query's products are made of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.index import residual_codec
from hf_xlir.index.residual_codec import ResidualCodec, nearest_centroids, pack, random_rotation, unpack


# Least mean squared error of a Gaussian at that many bits (Max 1960), which equally spaced levels come near
LEAST_ERRORS = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}


def unit_vectors(num_vectors, dim, seed=0):
    vectors = torch.randn(num_vectors, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


def codec_of(dim, nbits, num_centroids=7):
    rotation = random_rotation(dim, seed=0)
    return ResidualCodec(unit_vectors(num_centroids, dim, seed=1) @ rotation, rotation, nbits)


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
    encoded, prepared = codec.encode(vectors), codec.rotate_query(query)
    levels = unpack(encoded.codes, nbits).double() @ prepared.levels.double() + prepared.shifts
    products = prepared.cell_scores[encoded.cells.long()] + encoded.scales.double()[:, None] * levels
    expected = codec.decode(encoded) @ query.T
    products = products * prepared.scales
    torch.testing.assert_close(products[:, :4], expected.double(), atol=0.01, rtol=0)
    assert products.shape == (50, 32) and not products[:, 4:].any()


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


def test_given_cells_are_used_and_nearest_is_the_default():
    codec = codec_of(16, 4, num_centroids=3)
    vectors = unit_vectors(9, 16)
    centroids = (codec.centroids @ codec.rotation.T).double().numpy()
    distances = np.linalg.norm(vectors.double().numpy()[:, None] - centroids, axis=2)
    assert codec.encode(vectors).cells.tolist() == distances.argmin(axis=1).tolist()
    assert codec.encode(vectors, torch.full((9,), 2)).cells.tolist() == [2] * 9


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_blocks_do_not_matter(num_tokens, monkeypatch):
    codec, vectors = codec_of(16, 3), unit_vectors(num_tokens, 16)
    whole = codec.encode(vectors)
    assert whole.codes.shape == (num_tokens, 6)
    monkeypatch.setattr(residual_codec, "TOKENS_PER_BLOCK", 2)
    for part, expected in zip(codec.encode(vectors), whole, strict=True):
        assert torch.equal(part, expected)


def test_a_codec_is_its_arrays():
    codec, vectors = codec_of(16, 4), unit_vectors(30, 16)
    again = ResidualCodec.from_arrays(codec.arrays(), 4)
    for part, expected in zip(again.encode(vectors), codec.encode(vectors), strict=True):
        assert torch.equal(part, expected)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"`nbits`.*one of \[1, 2, 3, 4, 8\], got 5"):
        codec_of(16, 5)
    with pytest.raises(ValueError, match="got True"):
        codec_of(16, True)
    with pytest.raises(ValueError, match="do not fit"):
        ResidualCodec(torch.zeros(3, 8), random_rotation(16, 0), 4)
    with pytest.raises(ValueError, match="Got 0 centroids, expected 1 to 32768"):
        ResidualCodec(torch.zeros(0, 16), random_rotation(16, 0), 4)
