"""Segments, the immutable parts of an index: which passages each holds, and how several become one."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from ..embeddings import TokenEmbeddings
from .codec import CentroidAssigner, ResidualCodec, nearest_centroids, train_codec
from .tokens import CompressedTokens, ExactTokens, cell_lists, ranges


PASSAGES_PER_BLOCK = 2**14
RESIDUALS_SAMPLED = 1024
NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Training:
    """A codec, the number of vectors that it was trained on, and their mean squared distance from their centroids."""

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
    """
    Some passages' vectors. A passage has a place here and, in the index, a slot ([`~.passage_ids.PassageIds`]).

    `slots`, int64 `(len(tokens),)`, are rising. `removed` are the places, rising, of passages that were removed from
    the index or have other vectors in another segment. `training` is the codec's, `None` for uncompressed vectors.
    `residual` is the mean squared distance of the vectors from the centroids that they have or would have.

    Of several places with one slot, only the last may hold a passage that was not removed.
    """

    tokens: ExactTokens | CompressedTokens
    slots: np.ndarray
    training: Training | None = None
    residual: float = 0.0
    removed: np.ndarray = field(default_factory=lambda: NOTHING)
    num_live_tokens: int | None = None  # without those of removed passages

    def __post_init__(self):
        if self.num_live_tokens is None:
            lost = int(self._lengths(self.removed).sum())
            object.__setattr__(self, "num_live_tokens", self.tokens.num_tokens - lost)

    @property
    def num_live(self):
        """Number of passages that were not removed."""
        return len(self.tokens) - len(self.removed)

    @property
    def lengths(self):
        """Number of vectors of each passage, removed ones included."""
        return np.diff(self.tokens.arrays["offsets"])

    @cached_property
    def is_live(self):
        """A boolean array: whether each place holds a passage that was not removed."""
        live = np.ones(len(self.tokens), dtype=bool)
        live[self.removed] = False
        return live

    def places(self, slots):
        """The places, rising, of the passages in some rising slots that are here."""
        places = np.searchsorted(self.slots, slots, side="right") - 1
        found = places >= 0
        found[found] = self.slots[places[found]] == slots[found]
        places = places[found]
        if len(self.removed):
            at = np.minimum(np.searchsorted(self.removed, places), len(self.removed) - 1)
            places = places[self.removed[at] != places]
        return places

    def without(self, slots):
        """Without the passages in some rising slots."""
        places = self.places(slots)
        if not len(places):
            return self
        removed = np.sort(np.concatenate([self.removed, places]), kind="stable")
        num_live_tokens = self.num_live_tokens - int(self._lengths(places).sum())
        return replace(self, removed=removed, num_live_tokens=num_live_tokens)

    def searched(self, allowed, excluded):
        """
        Which places to search: `None` for all, or a boolean array. Without the limits only removed passages are left
        out; of two arrays of rising slots, only those in `allowed` and none in `excluded` are searched.
        """
        if allowed is None:
            places = self.is_live if len(self.removed) else None
        else:
            places = np.zeros(len(self.tokens), dtype=bool)
            places[self.places(allowed)] = True
        if excluded is not None and len(out := self.places(excluded)):
            places = np.ones(len(self.tokens), dtype=bool) if places is None else places.copy()
            places[out] = False
        return None if places is None or places.all() else places

    def rows(self, ids):
        """The row of each place, int64; -1 where the passage was removed."""
        return np.where(self.is_live, ids.rows(self.slots), -1)

    def vectors(self, positions):
        """Vectors of some tokens, decoded: float32 of shape `(len(positions), embedding_dim)`."""
        arrays = self.tokens.arrays
        if isinstance(self.tokens, ExactTokens):
            return np.asarray(arrays["values"][positions], dtype=np.float32)
        return self.tokens.codec.decode(torch.from_numpy(arrays["records"][positions])).numpy()

    def _lengths(self, places):
        offsets = self.tokens.arrays["offsets"]
        return offsets[places + 1] - offsets[places]


def exact_segment(embeddings, slots, removed=NOTHING):
    """A segment of [`TokenEmbeddings`], which are not copied."""
    tokens = ExactTokens({"values": embeddings.values, "offsets": embeddings.offsets})
    return Segment(tokens, slots, removed=removed)


def compressed_segment(embeddings, slots, training, residual):
    """A segment of [`TokenEmbeddings`], compressed by the codec of a [`Training`]."""
    tokens = CompressedTokens.build(embeddings, training.codec, training.assigner)
    return Segment(tokens, slots, training, residual)


def train(embeddings, nbits, num_centroids, seed, query_moments=None):
    """A [`Training`] on [`TokenEmbeddings`]; arguments as of [`~.codec.train_codec`]."""
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
    """
    One segment of several, all uncompressed or all of one codec, without removed passages, in the order of slots. What
    is stored of a vector is copied, not decoded. At least one passage must be left.
    """
    slots, live = (np.concatenate([getattr(each, name) for each in segments]) for name in ("slots", "is_live"))
    lengths = np.concatenate([segment.lengths for segment in segments])
    order = np.argsort(slots, kind="stable")
    order = order[live[order]]
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    exact = isinstance(segments[0].tokens, ExactTokens)
    name = "values" if exact else "records"
    parts = [segment.tokens.arrays[name] for segment in segments]
    stored = np.empty((offsets[-1], *parts[0].shape[1:]), np.result_type(*parts))
    new_place = np.full(len(slots), -1)
    new_place[order] = np.arange(len(order))
    bounds = np.cumsum([0, *(len(segment.tokens) for segment in segments)])
    for segment, part, start, stop in zip(segments, parts, bounds[:-1], bounds[1:], strict=True):
        places, own_lengths = np.flatnonzero(segment.is_live), lengths[start:stop]
        for first in range(0, len(places), PASSAGES_PER_BLOCK):
            block = places[first : first + PASSAGES_PER_BLOCK]
            targets = ranges(offsets[new_place[start:stop][block]], own_lengths[block])
            stored[targets] = part[ranges(segment.tokens.arrays["offsets"][block], own_lengths[block])]
    arrays = {"offsets": offsets, name: stored}
    if exact:
        return Segment(ExactTokens(arrays), slots[order])
    training = segments[0].training
    arrays |= cell_lists(stored, offsets, len(training.codec.centroids))
    residual = np.average([each.residual for each in segments], weights=[each.tokens.num_tokens for each in segments])
    return Segment(CompressedTokens(training.codec, arrays), slots[order], training, float(residual))


class StoredVectors:
    """
    All vectors of an index as one array in the order of rows, decoded when they are read: `values` of
    [`TokenEmbeddings`]. The segments hold each row of `ids` once.
    """

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, segments, ids, embedding_dim):
        self._segments, self._segment = segments, np.empty(len(ids), dtype=np.int32)
        self._start, self.lengths = np.empty(len(ids), dtype=np.int64), np.empty(len(ids), dtype=np.int64)
        for number, segment in enumerate(segments):
            rows = ids.rows(segment.slots[segment.is_live])
            self._segment[rows] = number
            self._start[rows] = segment.tokens.arrays["offsets"][:-1][segment.is_live]
            self.lengths[rows] = segment.lengths[segment.is_live]
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
    first = segments[0]
    if len(segments) == 1 and isinstance(first.tokens, ExactTokens) and is_whole(first, ids):
        return TokenEmbeddings(first.tokens.arrays["values"], first.lengths, list(ids))
    values = StoredVectors(segments, ids, embedding_dim)
    return TokenEmbeddings(values, values.lengths, list(ids))


def is_whole(segment, ids):
    """Whether the places of a segment are the rows of an index, as far as they go."""
    return np.array_equal(segment.rows(ids), np.arange(len(segment.tokens)))


__all__ = [
    "Segment",
    "StoredVectors",
    "Training",
    "compressed_segment",
    "exact_segment",
    "is_whole",
    "joined",
    "mean_residual",
    "stored_embeddings",
    "train",
]
