"""Compression of token vectors to a centroid and a few bits per dimension: the codec, its training, its bits."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from ..dense.faiss_index import import_faiss


# The best distance between levels for a Gaussian, in standard deviations of a dimension; from a simulation
GAUSSIAN_STEPS = {1: 1.6, 2: 1.0, 3: 0.58, 4: 0.34, 8: 0.031}
STEP_FACTORS = (0.85, 0.95, 1.05, 1.15, 1.3)  # tried for each vector around that distance; the best is kept
MOST_CENTROIDS = 2**15  # a cell is stored as int16
HEAD_BYTES = 4  # of a record, before its codes
LARGEST_SCALE = 65_504  # of half precision
QUERY_TOKENS_MULTIPLE = 16
ALIKE = 0.9  # cosine from which query tokens count as one
TOKENS_PER_BLOCK = 2**12  # fits a core's cache
CENTROIDS_PER_ROOT = 8  # centroids per square root of the number of vectors
SAMPLE_PER_CENTROID = 32
ITERATIONS = 5  # of k-means
QUERY_SHARE = 0.8  # of the sample of queries in the moments that precision is fitted to; the rest are passages
TOKENS_PER_MOMENT = 2**14
FEWEST_FOR_TWO_LEVELS = 1024  # with fewer centroids, a comparison with all of them is as fast
GROUPS_VISITED = 8
SMOOTHING = 0.01  # of the mean variance, added in every direction


class RotatedQuery(NamedTuple):
    """
    One query, prepared for scoring compressed tokens. Zero vectors of scale 0 fill it up to a multiple of 16 tokens,
    which is fastest.

    `vectors`, float32 `(query_length, rotated_dim)`, is the rotated query; `levels`, int8 `(rotated_dim,
    query_length)`, the same rounded to 8 bits per dimension; `scales`, `(query_length,)`, what levels are multiplied
    by; `cell_scores`, `(num_centroids, query_length)`, inner products with centroids divided by `scales`; `shifts`,
    `(query_length,)`, what the offset of passages' levels adds to an inner product.
    """

    vectors: torch.Tensor
    levels: torch.Tensor
    scales: torch.Tensor
    cell_scores: torch.Tensor
    shifts: torch.Tensor


@dataclass(frozen=True, eq=False)
class ResidualCodec:
    """
    Stores a vector as its nearest centroid and the residual, what remains. Residuals are rotated at random, so that
    all dimensions have about the same Gaussian distribution, and each dimension is rounded to one of `2**nbits`
    equally spaced levels. The distance between levels is chosen per vector, as extended RaBitQ does
    (https://huggingface.co/papers/2409.09913), and so is the factor that turns levels into the residual. An inner
    product with a query is then

        `query . centroid + scale * (rotated query . levels)`

    and a search rotates nothing back.

    Where the distribution of queries is known, the rotation also stretches the directions in which queries have most,
    so that errors there are small, and queries are rotated by the inverse: [`rotations_for`].

    `centroids`, `(num_centroids, rotated_dim)`, are rotated. `rotation`, `(embedding_dim, rotated_dim)`, is for
    passages, where `rotated_dim` is `embedding_dim` rounded up to a multiple of 8. `query_rotation`, of that shape,
    is for queries: `rotation @ query_rotation.T` is the identity. By default it is `rotation`, whose rows are then
    orthonormal.
    """

    centroids: torch.Tensor
    rotation: torch.Tensor
    nbits: int
    query_rotation: torch.Tensor | None = None

    def __post_init__(self):
        check_nbits(self.nbits)
        if self.query_rotation is None:
            object.__setattr__(self, "query_rotation", self.rotation)
        # The disk has half precision, and codes must be made and read with the same centroids
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

    @cached_property
    def half_norms(self):
        """Half the squared length of each centroid."""
        return self.centroids.square().sum(dim=1) / 2

    @property
    def record_bytes(self):
        """Bytes of a compressed vector."""
        return HEAD_BYTES + self.rotation.shape[1] * self.nbits // 8

    def arrays(self):
        """The NumPy arrays, by name, that [`~ResidualCodec.from_arrays`] needs beside `nbits`."""
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
        """
        The records, uint8 `(num_tokens, record_bytes)`, of float32 vectors `(num_tokens, embedding_dim)`.

        Vectors are finite and at most 60,000 long, about the largest half-precision number. `cells` are centroids near
        the vectors, by default the nearest ones.
        """
        if cells is None:
            cells = nearest_centroids(vectors, self)
        blocks = zip(vectors.split(TOKENS_PER_BLOCK), cells.split(TOKENS_PER_BLOCK), strict=True)
        return torch.cat([self._encode_block(block.float(), own_cells) for block, own_cells in blocks])

    def decode(self, records):
        """Vectors from [`~ResidualCodec.encode`], float32 of shape `(num_tokens, embedding_dim)`."""
        cells, scales, codes = split_records(records)
        levels = unpack(codes, self.nbits).float() + level_offset(self.nbits)
        rotated = self.centroids[cells.long()]
        rotated += scales.float()[:, None] * levels
        return rotated @ self.query_rotation.T

    def rotate_query(self, query):
        """The [`RotatedQuery`] of one query's tokens that count, `(query_length, embedding_dim)`."""
        rotated = query.float() @ self.query_rotation
        rotated = torch.nn.functional.pad(rotated, (0, 0, 0, -len(query) % QUERY_TOKENS_MULTIPLE))
        return self._prepared(rotated, self.centroids @ rotated.T)

    def merge_alike(self, query):
        """
        A shorter [`RotatedQuery`] with about the same scores. Tokens with a cosine of at least 0.9 to the first of
        them, such as the `[MASK]` that fill up short queries, become their sum: they nearly always match one token.
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
    """
    The parts of records `(num_tokens, record_bytes)`: each vector's centroid, int16 `(num_tokens,)`; the scale of its
    levels, float16 `(num_tokens,)`; and the packed levels, uint8 `(num_tokens, bytes)`.
    """
    heads = records[:, :HEAD_BYTES].clone(memory_format=torch.contiguous_format)
    return heads.view(torch.int16)[:, 0], heads.view(torch.float16)[:, 1], records[:, HEAD_BYTES:]


def check_nbits(nbits):
    """A `ValueError` unless there is a codec with this number of bits."""
    if isinstance(nbits, bool) or not isinstance(nbits, int | np.integer) or nbits not in GAUSSIAN_STEPS:
        raise ValueError(f"`nbits`, the bits per dimension, must be one of {sorted(GAUSSIAN_STEPS)}, got {nbits!r}.")


def nearest_centroids(vectors, codec):
    """The centroid at the smallest distance from each vector, int64 of shape `(num_vectors,)`."""
    blocks = [vectors[start : start + TOKENS_PER_BLOCK].float() for start in range(0, len(vectors), TOKENS_PER_BLOCK)]
    nearest = [
        torch.addmm(codec.half_norms, block @ codec.rotation, codec.centroids.T, beta=-1).argmax(dim=1)
        for block in blocks
    ]
    return torch.cat(nearest) if nearest else torch.zeros(0, dtype=torch.long)


def level_offset(nbits):
    """What is added to stored levels to centre them on 0; those of 8 bits are stored signed."""
    return 0.5 if nbits == 8 else (1 - 2**nbits) / 2


def round_to_levels(residuals, nbits):
    """
    The levels of rotated residuals `(num_tokens, rotated_dim)`, whole numbers `level_offset(nbits)` below the values.

    Each vector has the distance between levels, among a few, with the smallest angle to its residual.
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


def num_centroids_for(num_tokens):
    """
    How many centroids this many vectors have: 8 times the square root, so that cells and centroids grow alike, with at
    least 4 vectors per centroid, and at most 32,768.
    """
    return max(1, min(round(CENTROIDS_PER_ROOT * math.sqrt(num_tokens)), num_tokens // 4, MOST_CENTROIDS))


def train_codec(embeddings, nbits, num_centroids=None, seed=0, query_moments=None):
    """
    A [`ResidualCodec`] for [`TokenEmbeddings`]: k-means on a sample of the vectors, all that is read and held of them.

    By default there are [`num_centroids_for`] the vectors; there are never more than vectors. `query_moments`, float64
    `(embedding_dim, embedding_dim)`, is the mean outer product of queries' vectors with themselves, to which precision
    is fitted; by default queries are taken to be like passages. One seed gives one codec on one machine.
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
    """Mean outer product of float32 vectors with themselves, float64 of shape `(embedding_dim, embedding_dim)`."""
    blocks = (block.double() for block in vectors.split(TOKENS_PER_MOMENT))
    return sum(block.T @ block for block in blocks) / len(vectors)


def train_centroids(sample, num_centroids, seed):
    """Centroids `(num_centroids, embedding_dim)` of float32 vectors, by the k-means of FAISS."""
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
    """
    Finds vectors' centroids. Where there are over a thousand, they are grouped by k-means themselves, and a vector is
    compared only with those in its nearest groups, in a fifth of the time. About 2 in 100 vectors then get a centroid
    that is not the nearest one, but hardly further.
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


def random_rotation(embedding_dim, seed):
    """
    Orthonormal rows that mix all dimensions, float32 `(embedding_dim, embedding_dim rounded up to a multiple of 8)`.
    They keep inner products.
    """
    rotated_dim = -(-embedding_dim // 8) * 8
    gaussian = torch.randn(rotated_dim, rotated_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    orthogonal, triangular = torch.linalg.qr(gaussian)
    return (orthogonal * triangular.diagonal().sign())[:embedding_dim].float().contiguous()


def rotations_for(passage_moments, query_moments, seed):
    """
    Rotations for passages and for queries, float32 `(embedding_dim, rotated_dim)` each, that make the errors of inner
    products smallest. That of passages lengthens no vector.

    If rounding errors are alike in all directions, the best linear map of passages, with the inverse for queries, is
    the square root of the geometric mean of the queries' second moments and the inverse of the passages', up to a
    rotation. If queries are distributed as passages are, that is the identity.
    """
    passage_moments, query_moments = _smoothed(passage_moments), _smoothed(query_moments)
    root, inverse_root = _roots(passage_moments)
    mean = inverse_root @ _roots(root @ query_moments @ root)[0] @ inverse_root
    stretch, inverse = _roots(mean / torch.linalg.matrix_norm(mean, ord=2))
    rotation = random_rotation(len(passage_moments), seed).double()
    return (stretch @ rotation).float(), (inverse @ rotation).float()


def _smoothed(moments):
    """With a little of every direction, since queries may come that the sample does not have."""
    added = SMOOTHING * moments.trace() / len(moments) + 1e-12
    return moments + added * torch.eye(len(moments), dtype=moments.dtype)


def _roots(matrix):
    """The square root of a positive definite matrix, and its inverse."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    values = values.clamp_min(values[-1] * 1e-12).sqrt()
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def pack(levels, nbits):
    """
    Levels `(num_tokens, rotated_dim)` as bytes `(num_tokens, rotated_dim * nbits / 8)`. Levels are whole numbers from
    0 on, or at 8 bits from -128 on.

    The fields of a byte are dimensions that lie far apart, so that unpacking shifts and masks whole rows. Three bits
    are two planes: the lower two bits, then the highest.
    """
    if nbits == 8:
        return levels.to(torch.int8).view(torch.uint8)
    levels = levels.to(torch.uint8)
    if nbits == 3:
        return torch.cat([_pack_plane(levels & 3, 2), _pack_plane(levels >> 2, 1)], dim=1)
    return _pack_plane(levels, nbits)


def unpack(codes, nbits):
    """Levels from bytes, int8 of shape `(num_tokens, rotated_dim)`."""
    if nbits == 8:
        return codes.view(torch.int8)
    if nbits != 3:
        return _unpack_plane(codes, nbits).view(torch.int8)
    lower, upper = codes.split([codes.shape[1] * 2 // 3, codes.shape[1] // 3], dim=1)
    return _unpack_plane(lower, 2).bitwise_or_(_unpack_plane(upper, 1) << 2).view(torch.int8)


def _pack_plane(levels, width):
    fields = levels.chunk(8 // width, dim=1)
    codes = fields[0].clone()
    for position, field in enumerate(fields[1:], 1):
        codes |= field << (width * position)
    return codes


def _unpack_plane(codes, width):
    num_bytes, mask = codes.shape[1], 2**width - 1
    if not (num_bytes % 4 or codes.stride(0) % 4 or codes.storage_offset() % 4):
        # Processors shift words faster than bytes; what a shift brings in from the next byte is masked
        codes, mask = codes.view(torch.int32), mask * 0x01010101
    fields = codes.new_empty(len(codes), 8 // width * codes.shape[1])
    for position, field in enumerate(fields.split(codes.shape[1], dim=1)):
        torch.bitwise_right_shift(codes, width * position, out=field)
    return fields.bitwise_and_(mask).view(torch.uint8)


__all__ = [
    "CentroidAssigner",
    "ResidualCodec",
    "check_nbits",
    "nearest_centroids",
    "second_moments",
    "split_records",
    "train_codec",
    "unpack",
]
