"""Fewer vectors per passage: tokens that say much the same become one."""

import numpy as np

from ...utils.progress import progress_bar
from ..embeddings import TokenEmbeddings


def pool_tokens(embeddings, pooling_factor, progress=True):
    """
    [`TokenEmbeddings`] with `n / pooling_factor` vectors, rounded up, for each passage of `n`: Ward's hierarchical
    clustering and the mean of each cluster (https://huggingface.co/papers/2409.14683), with the mean length of its
    vectors. Pooled vectors are in the order of the first token of each.
    """
    if pooling_factor == 1:
        return embeddings
    lengths = -(-embeddings.lengths.astype(np.int64) // pooling_factor)
    ends = np.cumsum(lengths)
    values = np.empty((ends[-1] if len(ends) else 0, embeddings.embedding_dim), dtype=embeddings.values.dtype)
    for row in progress_bar(range(len(embeddings)), show=progress, desc="Pooling", unit="passage", delay=2):
        pooled = _pooled(np.asarray(embeddings[row], dtype=np.float64), int(lengths[row]))
        values[ends[row] - lengths[row] : ends[row]] = pooled
    return TokenEmbeddings(values, lengths, embeddings.ids, embeddings.query_moments)


def _pooled(vectors, num_clusters):
    """Means of clusters, of shape `(num_clusters, embedding_dim)`."""
    if num_clusters == len(vectors):
        return vectors
    clusters = _clusters(vectors, num_clusters)
    sums, norms = np.zeros((num_clusters, vectors.shape[1])), np.zeros(num_clusters)
    np.add.at(sums, clusters, vectors)
    np.add.at(norms, clusters, np.linalg.norm(vectors, axis=1))
    lengths = np.linalg.norm(sums, axis=1)
    return sums * (norms / np.maximum(lengths, 1e-20) / np.bincount(clusters, minlength=num_clusters))[:, None]


def _clusters(vectors, num_clusters):
    """The cluster of each vector, numbered by their first vectors."""
    if num_clusters == 1:
        return np.zeros(len(vectors), dtype=np.int64)
    from scipy.cluster.hierarchy import linkage  # slow to import, and rarely needed

    members = {token: [token] for token in range(len(vectors))}
    merges = linkage(vectors, "ward")[: len(vectors) - num_clusters, :2].astype(int)
    for step, (one, other) in enumerate(merges):
        members[len(vectors) + step] = members.pop(one) + members.pop(other)
    clusters = np.empty(len(vectors), dtype=np.int64)
    for number, tokens in enumerate(sorted(members.values(), key=min)):
        clusters[tokens] = number
    return clusters


__all__ = ["pool_tokens"]
