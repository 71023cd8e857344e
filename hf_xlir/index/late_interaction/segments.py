"""Segments, the parts that an index consists of: which passages they hold, and how several become one."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from ..embeddings import TokenEmbeddings
from .clustering import CentroidAssigner, train_codec
from .compressed_tokens import CompressedTokens, cell_lists
from .exact_tokens import ExactTokens, ranges
from .residual_codec import ResidualCodec, nearest_centroids


PASSAGES_PER_BLOCK = 2**14
RESIDUALS_SAMPLED = 1024


@dataclass(frozen=True, eq=False)
class Training:
    r"""
    A codec, and what it was trained on.

    Args:
        codec ([`~hf_xlir.index.late_interaction.residual_codec.ResidualCodec`]):
            Shared by segments.
        num_tokens (`int`):
            Number of vectors that there were.
        residual (`float`):
            Their mean squared distance from their centroids.
    """

    codec: ResidualCodec
    num_tokens: int
    residual: float

    def __reduce__(self):
        return Training, (self.codec, self.num_tokens, self.residual)  # without the assigner

    @cached_property
    def assigner(self):
        """Finds vectors' centroids fast."""
        return CentroidAssigner(self.codec)


@dataclass(frozen=True, eq=False)
class Segment:
    r"""
    Passages' vectors, and where in the index the passages are. It never changes; changes make another.

    Args:
        tokens ([`~hf_xlir.index.late_interaction.exact_tokens.ExactTokens`] or \
[`~hf_xlir.index.late_interaction.compressed_tokens.CompressedTokens`]):
            The vectors.
        rows (`numpy.ndarray` of shape `(len(tokens),)`):
            Int64: each passage's row in the index, or -1 if it was removed.
        training ([`Training`], *optional*):
            The codec's; `None` for uncompressed vectors.
        residual (`float`, *optional*, defaults to 0.0):
            Mean squared distance of the vectors from the centroids that they have, or would have.
    """

    tokens: ExactTokens | CompressedTokens
    rows: np.ndarray
    training: Training | None = None
    residual: float = 0.0
    lengths: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "lengths", np.diff(self.tokens.arrays["offsets"]))

    @cached_property
    def num_live_tokens(self):
        """Number of vectors of passages that were not removed."""
        return int(self.lengths[self.rows >= 0].sum())

    @property
    def is_whole(self):
        """Whether the passages are all those of an index, in its order."""
        return np.array_equal(self.rows, np.arange(len(self.rows)))

    def with_rows(self, rows):
        """The same vectors, elsewhere in the index."""
        return replace(self, rows=rows)

    def vectors(self, places):
        """Vectors of some tokens, decoded: float32 of shape `(len(places), embedding_dim)`."""
        arrays = self.tokens.arrays
        if isinstance(self.tokens, ExactTokens):
            return np.asarray(arrays["values"][places], dtype=np.float32)
        encoded = torch.from_numpy(arrays["records"][places])
        return self.tokens.codec.decode(encoded).numpy()


def exact_segment(embeddings, rows):
    """A segment of [`TokenEmbeddings`], which are not copied."""
    return Segment(ExactTokens({"values": embeddings.values, "offsets": embeddings.offsets}), rows)


def compressed_segment(embeddings, rows, training, residual):
    """A segment of [`TokenEmbeddings`], compressed by the codec of a [`Training`]."""
    tokens = CompressedTokens.build(embeddings, training.codec, assigner=training.assigner)
    return Segment(tokens, rows, training, residual)


def train(embeddings, nbits, num_centroids, seed, query_moments=None):
    """A [`Training`] on [`TokenEmbeddings`]; arguments as of [`~.clustering.train_codec`]."""
    codec = train_codec(embeddings, nbits, num_centroids, seed, query_moments)
    return Training(codec, len(embeddings.values), mean_residual(embeddings.values, codec))


def mean_residual(values, codec):
    """Mean squared distance of vectors from their nearest centroids, by a sample of about a thousand."""
    sample = values
    if len(values) > RESIDUALS_SAMPLED:
        rows = np.random.default_rng(0).choice(len(values), RESIDUALS_SAMPLED, replace=False, shuffle=False)
        sample = values[np.sort(rows)]
    vectors = torch.from_numpy(np.asarray(sample[:], dtype=np.float32))
    centroids = codec.centroids[nearest_centroids(vectors, codec)]
    return float((vectors @ codec.rotation - centroids).square().sum(dim=1).mean())


def joined(segments):
    r"""
    One segment, without the removed passages of several, all uncompressed or all of one codec: what is stored of a
    vector is copied, not decoded.

    Args:
        segments (`list[Segment]`):
            At least one passage must be left.

    Returns:
        [`Segment`]: Its passages are in the order of their rows.
    """
    rows = np.concatenate([segment.rows for segment in segments])
    lengths = np.concatenate([segment.lengths for segment in segments])
    order = np.argsort(rows, kind="stable")
    order = order[rows[order] >= 0]
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    arrays = {"offsets": offsets}
    exact = isinstance(segments[0].tokens, ExactTokens)
    for name in ["values" if exact else "records"]:
        parts = [segment.tokens.arrays[name] for segment in segments]
        arrays[name] = np.empty((offsets[-1], *parts[0].shape[1:]), np.result_type(*parts))
    new_place = np.full(len(rows), -1)
    new_place[order] = np.arange(len(order))
    bounds = np.cumsum([0, *(len(segment.rows) for segment in segments)])
    for segment, start, stop in zip(segments, bounds[:-1], bounds[1:], strict=True):
        places = np.flatnonzero(segment.rows >= 0)
        for first in range(0, len(places), PASSAGES_PER_BLOCK):
            block = places[first : first + PASSAGES_PER_BLOCK]
            targets = ranges(offsets[new_place[start:stop][block]], segment.lengths[block])
            sources = ranges(segment.tokens.arrays["offsets"][block], segment.lengths[block])
            for name in arrays.keys() - {"offsets"}:
                arrays[name][targets] = segment.tokens.arrays[name][sources]
    rows = rows[order]
    if exact:
        return Segment(ExactTokens(arrays), rows)
    training = segments[0].training
    arrays |= cell_lists(arrays["records"], offsets, len(training.codec.centroids))
    residual = np.average([each.residual for each in segments], weights=[each.tokens.num_tokens for each in segments])
    return Segment(CompressedTokens(training.codec, arrays), rows, training, float(residual))


class StoredVectors:
    r"""
    All vectors of an index as one array, decoded when they are read: `values` of [`TokenEmbeddings`].

    Args:
        segments (`list[Segment]`):
            Which together hold each row once.
        num_rows (`int`):
            Number of rows.
        embedding_dim (`int`):
            Number of dimensions.
    """

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, segments, num_rows, embedding_dim):
        self._segments, self._segment = segments, np.empty(num_rows, dtype=np.int32)
        self._start, self.lengths = np.empty(num_rows, dtype=np.int64), np.empty(num_rows, dtype=np.int64)
        for number, segment in enumerate(segments):
            live = segment.rows >= 0
            rows = segment.rows[live]
            self._segment[rows] = number
            self._start[rows] = segment.tokens.arrays["offsets"][:-1][live]
            self.lengths[rows] = segment.lengths[live]
        self._ends = np.cumsum(self.lengths)
        self.shape = (int(self._ends[-1]), embedding_dim)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, key):
        """Float32 vectors of the tokens in a slice or at some positions."""
        positions = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        rows = np.searchsorted(self._ends, positions, side="right")
        places = positions - (self._ends[rows] - self.lengths[rows]) + self._start[rows]
        vectors, owners = np.empty((len(positions), self.shape[1]), dtype=np.float32), self._segment[rows]
        for number in np.unique(owners):
            own = owners == number
            vectors[own] = self._segments[number].vectors(places[own])
        return vectors


def stored_embeddings(segments, ids, embedding_dim):
    """[`TokenEmbeddings`] of all rows, read from the segments; one uncompressed segment is given back as it is."""
    first = segments[0].tokens
    if len(segments) == 1 and isinstance(first, ExactTokens) and segments[0].is_whole:
        return TokenEmbeddings(first.arrays["values"], segments[0].lengths, ids)
    values = StoredVectors(segments, len(ids), embedding_dim)
    return TokenEmbeddings(values, values.lengths, ids)


__all__ = [
    "Segment",
    "StoredVectors",
    "Training",
    "compressed_segment",
    "exact_segment",
    "joined",
    "mean_residual",
    "stored_embeddings",
    "train",
]
