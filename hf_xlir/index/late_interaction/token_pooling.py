"""Fewer vectors a passage: tokens that say much the same become one."""

import numpy as np
from tqdm.auto import tqdm
from transformers.utils import logging

from ..embeddings import TokenEmbeddings


def pool_tokens(embeddings, pooling_factor, progress=True):
    r"""
    Pool the token vectors of each passage: Ward's hierarchical clustering, and the mean of each cluster
    (https://huggingface.co/papers/2409.14683), with the mean length of the vectors that it is made of.

    Args:
        embeddings ([`TokenEmbeddings`]):
            The passages.
        pooling_factor (`int`):
            How many times fewer vectors there are to be; of `n` vectors, `n / pooling_factor`, rounded up, are left.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, unless the bars of Transformers are switched off.

    Returns:
        [`TokenEmbeddings`], in memory. Pooled vectors are in the order of the first token of each.

    Example:
    ```python
    >>> import numpy as np
    >>> from hf_xlir.index import TokenEmbeddings
    >>> from hf_xlir.index.late_interaction.token_pooling import pool_tokens

    >>> values = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype="float32")
    >>> pool_tokens(TokenEmbeddings(values, np.array([3]), ["a"]), 2).values.tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    ```
    """
    if pooling_factor == 1:
        return embeddings
    lengths = -(-embeddings.lengths.astype(np.int64) // pooling_factor)
    ends = np.cumsum(lengths)
    values = np.empty((ends[-1] if len(ends) else 0, embeddings.embedding_dim), dtype=embeddings.values.dtype)
    show = progress and logging.is_progress_bar_enabled()
    passages = tqdm(range(len(embeddings)), desc="Pooling", unit="passage", disable=not show, delay=2)
    for row in passages:
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
    from scipy.cluster.hierarchy import linkage  # takes as long to import as all of this package, and is rarely needed

    members = {token: [token] for token in range(len(vectors))}
    merges = linkage(vectors, "ward")[: len(vectors) - num_clusters, :2].astype(int)
    for step, (one, other) in enumerate(merges):
        members[len(vectors) + step] = members.pop(one) + members.pop(other)
    clusters = np.empty(len(vectors), dtype=np.int64)
    for number, tokens in enumerate(sorted(members.values(), key=min)):
        clusters[tokens] = number
    return clusters


__all__ = ["pool_tokens"]
