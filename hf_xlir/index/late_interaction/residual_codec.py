"""Compresses token vectors to a centroid and a few bits a dimension: pure tensors, no files, no index."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from .bit_packing import pack, unpack


# Width of a step between levels, in standard deviations of a dimension, that is best for a Gaussian; from a simulation
GAUSSIAN_STEPS = {1: 1.6, 2: 1.0, 3: 0.58, 4: 0.34, 8: 0.031}
STEP_FACTORS = (0.85, 0.95, 1.05, 1.15, 1.3)  # tried for every vector around that step; the best is kept
MOST_CENTROIDS = 2**15  # a cell is stored as int16
HEAD_BYTES = 4  # of a compressed vector, before its codes
LARGEST_SCALE = 65_504  # of half precision
QUERY_TOKENS_MULTIPLE = 16
ALIKE = 0.9  # cosine of query tokens that count as one
TOKENS_PER_BLOCK = 2**12  # what fits a core's cache


class RotatedQuery(NamedTuple):
    r"""
    One query as compressed tokens are scored with it. Its length is filled up with zero vectors, of scale 0, to a
    multiple of 16, which products and maxima are fastest with.

    Args:
        vectors (`torch.FloatTensor` of shape `(query_length, rotated_dim)`):
            The rotated query.
        levels (`torch.CharTensor` of shape `(rotated_dim, query_length)`):
            The same, rounded to 8 bits a dimension.
        scales (`torch.FloatTensor` of shape `(query_length,)`):
            What `levels` are multiplied by.
        cell_scores (`torch.FloatTensor` of shape `(num_centroids, query_length)`):
            Inner products of centroids and query tokens, divided by `scales`.
        shifts (`torch.FloatTensor` of shape `(query_length,)`):
            What the levels' offset adds to an inner product with `levels`.
    """

    vectors: torch.Tensor
    levels: torch.Tensor
    scales: torch.Tensor
    cell_scores: torch.Tensor
    shifts: torch.Tensor


@dataclass(frozen=True, eq=False)
class ResidualCodec:
    r"""
    A vector is its nearest centroid and what remains, the residual. Residuals are rotated at random, so that every
    dimension has about the same, Gaussian distribution, and each dimension is rounded to one of `2**nbits` equally
    spaced levels; the distance between levels is chosen for each vector, as extended RaBitQ does
    (https://arxiv.org/abs/2409.09913), and so is the factor with which levels make the residual again. The factor is
    kept with the codes, so that an inner product with a query is

        `query . centroid + scale * (rotated query . levels)`

    and nothing is ever rotated back in a search.

    Where it is known how queries are distributed, the rotation also stretches the directions that they have most of,
    so that errors there are small, and queries are rotated by the inverse: [`rotations_for`].

    Args:
        centroids (`torch.FloatTensor` of shape `(num_centroids, rotated_dim)`):
            Rotated.
        rotation (`torch.FloatTensor` of shape `(embedding_dim, rotated_dim)`):
            Of passages' vectors; `rotated_dim` is `embedding_dim` rounded up to a multiple of 8.
        nbits (`int`):
            Bits a dimension: 1, 2, 3, 4 or 8.
        query_rotation (`torch.FloatTensor` of shape `(embedding_dim, rotated_dim)`, *optional*):
            Of queries' vectors: `rotation @ query_rotation.T` is the identity. By default it is `rotation`, whose
            rows are orthonormal then.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.index.late_interaction.residual_codec import ResidualCodec
    >>> from hf_xlir.index.late_interaction.rotations import random_rotation

    >>> vectors = torch.nn.functional.normalize(torch.randn(100, 16, generator=torch.manual_seed(0)), dim=1)
    >>> rotation = random_rotation(16, seed=0)
    >>> codec = ResidualCodec(vectors[:10] @ rotation, rotation, nbits=4)
    >>> decoded = codec.decode(codec.encode(vectors))
    >>> bool(torch.cosine_similarity(decoded, vectors).min() > 0.98)
    True

    ```
    """

    centroids: torch.Tensor
    rotation: torch.Tensor
    nbits: int
    query_rotation: torch.Tensor | None = None

    def __post_init__(self):
        check_nbits(self.nbits)
        if self.query_rotation is None:
            object.__setattr__(self, "query_rotation", self.rotation)
        # Kept in half precision on disk: codes must be made with what they will be read with
        object.__setattr__(self, "centroids", self.centroids.half().float())
        if not 1 <= len(self.centroids) <= MOST_CENTROIDS:
            raise ValueError(f"Got {len(self.centroids)} centroids, expected 1 to {MOST_CENTROIDS}.")
        if self.centroids.shape[1] != self.rotation.shape[1] or self.rotation.shape[1] % 8:
            raise ValueError(
                f"`centroids` of shape {tuple(self.centroids.shape)} do not fit a `rotation` of shape "
                f"{tuple(self.rotation.shape)}."
            )

    @property
    def embedding_dim(self):
        """Number of dimensions of a vector."""
        return self.rotation.shape[0]

    @property
    def record_bytes(self):
        """Bytes of a compressed vector."""
        return HEAD_BYTES + self.rotation.shape[1] * self.nbits // 8

    def arrays(self):
        """What [`~ResidualCodec.from_arrays`] needs beside `nbits`: NumPy arrays by name."""
        return {
            "centroids": self.centroids.half().cpu().numpy(),
            "rotation": self.rotation.cpu().numpy(),
            "query_rotation": self.query_rotation.cpu().numpy(),
        }

    @classmethod
    def from_arrays(cls, arrays, nbits):
        """The codec of [`~ResidualCodec.arrays`], bit for bit."""
        return cls(nbits=nbits, **{name: torch.tensor(array) for name, array in arrays.items()})

    def to(self, device):
        """The codec on a device."""
        return replace(
            self,
            centroids=self.centroids.to(device),
            rotation=self.rotation.to(device),
            query_rotation=self.query_rotation.to(device),
        )

    def encode(self, vectors, cells=None):
        r"""
        Compress vectors.

        Args:
            vectors (`torch.FloatTensor` of shape `(num_tokens, embedding_dim)`):
                Finite, and of norms up to 60,000, about the largest half-precision number.
            cells (`torch.LongTensor` of shape `(num_tokens,)`, *optional*):
                A centroid near each vector. By default the nearest, among all.

        Returns:
            `torch.ByteTensor` of shape `(num_tokens, record_bytes)`: see [`split_records`].
        """
        if cells is None:
            cells = nearest_centroids(vectors, self)
        blocks = zip(vectors.split(TOKENS_PER_BLOCK), cells.split(TOKENS_PER_BLOCK), strict=True)
        return torch.cat([self._encode_block(block.float(), own_cells) for block, own_cells in blocks])

    def decode(self, records):
        r"""Vectors from [`~ResidualCodec.encode`], float32 of shape `(num_tokens, embedding_dim)`."""
        cells, scales, codes = split_records(records)
        levels = unpack(codes, self.nbits).float() + level_offset(self.nbits)
        rotated = self.centroids[cells.long()]
        rotated += scales.float()[:, None] * levels
        return rotated @ self.query_rotation.T

    def rotate_query(self, query):
        r"""
        Prepare one query for scoring.

        Args:
            query (`torch.FloatTensor` of shape `(query_length, embedding_dim)`):
                Its tokens that count.

        Returns:
            [`RotatedQuery`].
        """
        rotated = query.float() @ self.query_rotation
        rotated = torch.nn.functional.pad(rotated, (0, 0, 0, -len(query) % QUERY_TOKENS_MULTIPLE))
        return self._prepared(rotated, self.centroids @ rotated.T)

    def merge_alike(self, query):
        r"""
        A shorter query whose scores are about the same: tokens that are alike, of a cosine of at least 0.9 to the
        first of them, become their sum, since they nearly always match the same token of a passage. Such are the
        `[MASK]` that fill up short queries.

        Args:
            query ([`RotatedQuery`]):
                Of [`~ResidualCodec.rotate_query`].

        Returns:
            [`RotatedQuery`].
        """
        counts = query.scales.nonzero().flatten()
        if not len(counts):
            return query
        vectors = torch.nn.functional.normalize(query.vectors[counts] @ self.rotation.T, dim=1)
        first = (vectors @ vectors.T >= ALIKE - 1e-6).int().argmax(dim=1)  # of equal ones, `argmax` takes the first
        owners, groups = first.unique(return_inverse=True)
        members = query.vectors.new_zeros(len(owners) + -len(owners) % QUERY_TOKENS_MULTIPLE, len(query.vectors))
        members[groups, counts] = 1
        return self._prepared(members @ query.vectors, (query.cell_scores * query.scales) @ members.T)

    def _prepared(self, rotated, cell_scores):
        scales = rotated.abs().amax(dim=1) / 127
        divisors = scales.clamp_min(1e-20)
        levels = (rotated / divisors[:, None]).round()
        shifts = levels.sum(dim=1) * level_offset(self.nbits)
        return RotatedQuery(rotated, levels.T.to(torch.int8).contiguous(), scales, cell_scores / divisors, shifts)

    def _encode_block(self, vectors, cells):
        rotated = vectors @ self.rotation
        residuals = rotated - self.centroids[cells]
        levels = round_to_levels(residuals, self.nbits)
        values = levels + level_offset(self.nbits)
        # With this factor, codes give the residual's inner product with itself, and with queries without a bias
        scales = residuals.square().sum(dim=1) / (residuals * values).sum(dim=1).clamp_min(1e-20)
        scales = scales.clamp_max(LARGEST_SCALE).half()  # long vectors of two or three dimensions are beyond that
        heads = torch.stack([cells.to(torch.int16), scales.view(torch.int16)], dim=1)
        return torch.cat([heads.view(torch.uint8), pack(levels, self.nbits)], dim=1)


def split_records(records):
    r"""
    What compressed vectors consist of.

    Args:
        records (`torch.ByteTensor` of shape `(num_tokens, record_bytes)`):
            From [`~ResidualCodec.encode`].

    Returns:
        `tuple`: `torch.ShortTensor` of shape `(num_tokens,)`, each vector's centroid; `torch.HalfTensor` of shape
        `(num_tokens,)`, what its levels are multiplied by; `torch.ByteTensor` of shape `(num_tokens, bytes)`, the
        levels of the rotated residual's dimensions, packed.
    """
    heads = records[:, :HEAD_BYTES].clone(memory_format=torch.contiguous_format)
    return heads.view(torch.int16)[:, 0], heads.view(torch.float16)[:, 1], records[:, HEAD_BYTES:]


def check_nbits(nbits):
    """Raise unless there is a codec of so many bits."""
    if isinstance(nbits, bool) or not isinstance(nbits, int | np.integer) or nbits not in GAUSSIAN_STEPS:
        raise ValueError(f"`nbits`, the bits a dimension, must be one of {sorted(GAUSSIAN_STEPS)}, got {nbits!r}.")


def nearest_centroids(vectors, codec):
    r"""The centroid at the smallest distance from each vector, int64 of shape `(num_vectors,)`."""
    half_norms = codec.centroids.square().sum(dim=1) / 2
    blocks = (vectors[start : start + TOKENS_PER_BLOCK].float() for start in range(0, len(vectors), TOKENS_PER_BLOCK))
    nearest = [
        torch.addmm(half_norms, block @ codec.rotation, codec.centroids.T, beta=-1).argmax(dim=1) for block in blocks
    ]
    return torch.cat(nearest) if nearest else torch.zeros(0, dtype=torch.long)


def level_offset(nbits):
    """What is added to stored levels to centre them on 0; those of 8 bits are stored signed."""
    return 0.5 if nbits == 8 else (1 - 2**nbits) / 2


def round_to_levels(residuals, nbits):
    r"""
    Levels of residuals: the nearest of equally spaced ones, whose distance is the one of a few that makes the smallest
    angle between a residual and its levels.

    Args:
        residuals (`torch.FloatTensor` of shape `(num_tokens, rotated_dim)`):
            Rotated.
        nbits (`int`):
            Bits a dimension.

    Returns:
        `torch.FloatTensor` of the same shape: whole numbers, `level_offset(nbits)` below their values.
    """
    deviation = residuals.square().mean(dim=1).sqrt_().clamp_min_(1e-20)
    most, offset = 2**nbits, level_offset(nbits)
    lowest = -most / 2 if nbits == 8 else 0

    def levels_at(steps):
        return (residuals / steps[:, None]).sub_(offset).round_().clamp_(lowest, lowest + most - 1)

    steps = deviation * GAUSSIAN_STEPS[nbits]
    if nbits == 1:  # signs: the distance does not matter
        return levels_at(steps)
    best, best_steps = torch.full_like(steps, -1), steps
    for factor in STEP_FACTORS:
        values = levels_at(steps * factor).add_(offset)
        cosines = (values * residuals).sum(dim=1) / values.square_().sum(dim=1).sqrt_()
        best_steps = torch.where(cosines > best, steps * factor, best_steps)
        best = torch.maximum(best, cosines)
    return levels_at(best_steps)


__all__ = [
    "MOST_CENTROIDS",
    "ResidualCodec",
    "RotatedQuery",
    "check_nbits",
    "nearest_centroids",
    "split_records",
]
