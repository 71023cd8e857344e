"""Pooled tokens against Ward's criterion, computed from its definition."""

import itertools

import numpy as np
import pytest
from test_tokens import made_up

from hf_xlir.index import TokenEmbeddings
from hf_xlir.index.late_interaction.pooling import _clusters, pool_tokens


def wards_clusters(vectors, number):
    """Join the two clusters whose union adds least to the squared distances from means, again and again."""
    clusters = [[i] for i in range(len(vectors))]

    def cost(one, other):
        between = vectors[one].mean(axis=0) - vectors[other].mean(axis=0)
        return len(one) * len(other) / (len(one) + len(other)) * between @ between

    while len(clusters) > number:
        one, other = min(itertools.combinations(clusters, 2), key=lambda pair: cost(*pair))
        clusters = [each for each in clusters if each not in (one, other)] + [one + other]
    return {frozenset(each) for each in clusters}


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(seed):
    vectors = np.random.default_rng(seed).standard_normal((12, 4))
    for number in (1, 2, 5, 11):
        clusters = _clusters(vectors, number)
        found = {frozenset(np.flatnonzero(clusters == name)) for name in range(number)}
        assert found == wards_clusters(vectors, number)
        first = [int(np.flatnonzero(clusters == name)[0]) for name in range(number)]
        assert first == sorted(first)


@pytest.mark.parametrize("factor", [2, 3, 100])
def test_lengths(factor):
    embeddings = made_up()
    pooled = pool_tokens(embeddings, factor)
    assert pooled.lengths.tolist() == [-(-length // factor) for length in embeddings.lengths.tolist()]
    assert pooled.ids == embeddings.ids and pooled.values.dtype == embeddings.values.dtype
    np.testing.assert_allclose(np.linalg.norm(pooled.values, axis=1), 1, atol=1e-5)


def test_vectors():
    values = np.array([[0, 2], [3, 0], [0, 4], [0, 0.5]], dtype=np.float32)
    pooled = pool_tokens(TokenEmbeddings(values, np.array([3, 1]), ["a", "b"]), 2)
    np.testing.assert_allclose(pooled.values, [[0, 3], [3, 0], [0, 0.5]], atol=1e-6)
    turned = pool_tokens(TokenEmbeddings(np.array([[1.0, 0], [0.6, 0.8]]), np.array([2]), ["a"]), 2).values
    np.testing.assert_allclose(turned, [[2 / 5**0.5, 1 / 5**0.5]])  # the mean's direction, the vectors' length


def test_equal_and_opposite_vectors():
    embeddings = TokenEmbeddings(np.ones((7, 3), dtype="float16"), np.array([7]), ["a"])
    assert pool_tokens(embeddings, 2).values.tolist() == [[1, 1, 1]] * 4
    opposite = TokenEmbeddings(np.array([[1.0, 0], [-1.0, 0]]), np.array([2]), ["a"])
    assert pool_tokens(opposite, 2).values.tolist() == [[0, 0]]


def test_factor_one_changes_nothing():
    embeddings = made_up()
    assert pool_tokens(embeddings, 1) is embeddings
    nothing = TokenEmbeddings(np.zeros((0, 4)), np.zeros(0, np.int64), [])
    assert len(pool_tokens(nothing, 2)) == 0
