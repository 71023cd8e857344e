"""Rotations of vectors before they are rounded: by chance, or fitted to what queries look for."""

import torch


SMOOTHING = 0.01  # of the mean variance, added in every direction


def random_rotation(embedding_dim, seed):
    r"""
    Orthonormal rows that mix all dimensions, float32 of shape `(embedding_dim, embedding_dim rounded up to a multiple
    of 8)`: inner products stay what they are.
    """
    rotated_dim = -(-embedding_dim // 8) * 8
    gaussian = torch.randn(rotated_dim, rotated_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    orthogonal, triangular = torch.linalg.qr(gaussian)
    return (orthogonal * triangular.diagonal().sign())[:embedding_dim].float().contiguous()


def rotations_for(passage_moments, query_moments, seed):
    r"""
    Rotations of passages' and of queries' vectors that make the errors of inner products smallest.

    Of all linear maps of passages, with the inverse for queries, the best one for rounding errors that are alike in
    all directions is the square root of the geometric mean of the queries' matrix of second moments and the inverse
    of the passages', up to a rotation. If queries are distributed as passages are, that is the identity.

    Args:
        passage_moments, query_moments (`torch.DoubleTensor` of shape `(embedding_dim, embedding_dim)`):
            Mean outer products of vectors with themselves.
        seed (`int`):
            Of [`random_rotation`], which comes on top.

    Returns:
        `tuple` of two `torch.FloatTensor` of shape `(embedding_dim, rotated_dim)`: for passages, none of whose vectors
        it makes longer, and for queries.
    """
    passage_moments, query_moments = _smoothed(passage_moments), _smoothed(query_moments)
    root, inverse_root = _roots(passage_moments)
    mean = inverse_root @ _roots(root @ query_moments @ root)[0] @ inverse_root
    stretch, inverse = _roots(mean / torch.linalg.matrix_norm(mean, ord=2))
    rotation = random_rotation(len(passage_moments), seed).double()
    return (stretch @ rotation).float(), (inverse @ rotation).float()


def _smoothed(moments):
    """With a little of every direction: others than a sample has may come."""
    added = SMOOTHING * moments.trace() / len(moments) + 1e-12
    return moments + added * torch.eye(len(moments), dtype=moments.dtype)


def _roots(matrix):
    """The square root of a positive definite matrix, and its inverse."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    values = values.clamp_min(values[-1] * 1e-12).sqrt()
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


__all__ = ["random_rotation", "rotations_for"]
