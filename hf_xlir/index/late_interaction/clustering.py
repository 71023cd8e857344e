"""Centroids of token vectors: how many, k-means by FAISS, and fast assignment to many of them."""

import math

import numpy as np
import torch

from ..dense.faiss_import import import_faiss
from .residual_codec import MOST_CENTROIDS, ResidualCodec, check_nbits
from .rotations import random_rotation, rotations_for


CENTROIDS_PER_ROOT = 8  # centroids per square root of the number of vectors
SAMPLE_PER_CENTROID = 32
ITERATIONS = 5
QUERY_SHARE = 0.8  # of a sample of queries, beside passages, in what queries are taken to be
TOKENS_PER_BLOCK = 2**14
FEWEST_FOR_TWO_LEVELS = 1024  # below, comparing with every centroid is as fast
GROUPS_VISITED = 8


def num_centroids_for(num_tokens):
    r"""
    Number of centroids for so many vectors: 8 times the square root, so that cells and centroids grow alike, but at
    least 4 vectors a centroid, and at most 32,768.
    """
    return max(1, min(round(CENTROIDS_PER_ROOT * math.sqrt(num_tokens)), num_tokens // 4, MOST_CENTROIDS))


def train_codec(embeddings, nbits, num_centroids=None, seed=0, query_moments=None):
    r"""
    A codec for token embeddings: k-means on a sample.

    Args:
        embeddings ([`~hf_xlir.index.TokenEmbeddings`]):
            The passages; only a sample of the vectors, drawn without replacement, is read and held.
        nbits (`int`):
            Bits a dimension: 1, 2, 3, 4 or 8.
        num_centroids (`int`, *optional*):
            Number of centroids; fewer if there are fewer vectors. By default [`num_centroids_for`] the vectors.
        seed (`int`, *optional*, defaults to 0):
            Of the sample, k-means and the rotation: the same seed gives the same codec on one machine.
        query_moments (`numpy.ndarray` of float64 and shape `(embedding_dim, embedding_dim)`, *optional*):
            Mean outer product of queries' vectors with themselves, to which precision is fitted:
            [`~.rotations.rotations_for`]. By default queries are taken to be like passages.

    Returns:
        [`~hf_xlir.index.late_interaction.residual_codec.ResidualCodec`].

    Raises:
        ValueError: If `nbits` or `num_centroids` is out of range, or there are no vectors.
    """
    check_nbits(nbits)
    num_tokens = len(embeddings.values)
    if num_centroids is None:
        num_centroids = num_centroids_for(num_tokens)
    if not 1 <= num_centroids <= MOST_CENTROIDS:
        raise ValueError(f"`num_centroids` must be 1 to {MOST_CENTROIDS}, got {num_centroids}.")
    if not num_tokens:
        raise ValueError("`embeddings` has no vectors: there is nothing to learn centroids from.")
    num_centroids = min(num_centroids, num_tokens)
    size = min(num_tokens, SAMPLE_PER_CENTROID * num_centroids)
    rows = np.sort(np.random.default_rng(seed).permutation(num_tokens)[:size])
    sample = torch.from_numpy(np.asarray(embeddings.values[rows], dtype=np.float32))
    if query_moments is None:
        rotation = query_rotation = random_rotation(embeddings.embedding_dim, seed)
    else:
        moments = second_moments(sample)
        query_moments = QUERY_SHARE * torch.from_numpy(query_moments) + (1 - QUERY_SHARE) * moments
        rotation, query_rotation = rotations_for(moments, query_moments, seed)
    sample = sample @ rotation
    return ResidualCodec(train_centroids(sample, num_centroids, seed), rotation, nbits, query_rotation)


def second_moments(vectors):
    r"""Mean outer product of float32 vectors with themselves, float64 of shape `(embedding_dim, embedding_dim)`."""
    blocks = (block.double() for block in vectors.split(TOKENS_PER_BLOCK))
    return sum(block.T @ block for block in blocks) / len(vectors)


def train_centroids(sample, num_centroids, seed):
    r"""
    K-means by FAISS.

    Args:
        sample (`torch.FloatTensor` of shape `(num_vectors, embedding_dim)`):
            Vectors; at least as many as centroids.
        num_centroids (`int`):
            Number of centroids.
        seed (`int`):
            Which vectors are the first centroids.

    Returns:
        `torch.FloatTensor` of shape `(num_centroids, embedding_dim)`.
    """
    if len(sample) <= num_centroids:
        return sample.clone()
    faiss = import_faiss()
    clustering = faiss.Clustering(sample.shape[1], num_centroids)
    clustering.niter, clustering.seed = ITERATIONS, seed
    clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, len(sample)
    assigner = _assigner(faiss, sample.shape[1], num_centroids)
    clustering.update_index = True  # the groups of centroids move with them
    clustering.train(np.ascontiguousarray(sample.numpy()), assigner)
    centroids = faiss.vector_float_to_array(clustering.centroids)
    return torch.from_numpy(centroids.reshape(num_centroids, -1).copy())


class CentroidAssigner:
    r"""
    Finds the centroid of vectors. From a thousand centroids on, centroids are grouped by k-means themselves, and only
    those in the groups nearest to a vector are compared: about 2 in 100 vectors get a centroid that is not the nearest
    one, but hardly further, in a fifth of the time.

    Args:
        codec ([`~hf_xlir.index.late_interaction.residual_codec.ResidualCodec`]):
            Its centroids.
    """

    def __init__(self, codec):
        self._rotation = codec.rotation.cpu()
        self._index = _assigner(import_faiss(), codec.rotation.shape[1], len(codec.centroids))
        centroids = codec.centroids.cpu().numpy()
        self._index.train(centroids)
        self._index.add(centroids)

    def __call__(self, vectors):
        """Centroids of float32 vectors of shape `(num_vectors, embedding_dim)`: int64 of shape `(num_vectors,)`."""
        _, cells = self._index.search((vectors @ self._rotation).numpy(), 1)
        return torch.from_numpy(cells[:, 0])


def _assigner(faiss, dim, num_centroids):
    if num_centroids < FEWEST_FOR_TWO_LEVELS:
        return faiss.IndexFlatL2(dim)
    num_groups = round(math.sqrt(num_centroids))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, num_groups)
    index.nprobe = GROUPS_VISITED
    index.cp.niter, index.cp.min_points_per_centroid = 5, 1
    return index


__all__ = ["CentroidAssigner", "num_centroids_for", "second_moments", "train_centroids", "train_codec"]
