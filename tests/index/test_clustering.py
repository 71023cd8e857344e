"""Centroids: how many, k-means, assignment."""

import numpy as np
import pytest
import torch

from hf_xlir.index import TokenEmbeddings
from hf_xlir.index.late_interaction.codec import (
    CentroidAssigner,
    nearest_centroids,
    num_centroids_for,
    rotations_for,
    second_moments,
    train_centroids,
    train_codec,
)


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
