"""The passages of a late-interaction index at one moment; adding, updating, removing and merging make new ones."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from ...utils.checks import check_integer
from ..embeddings import TokenEmbeddings, check_ids_are_texts
from .codec import check_nbits
from .passage_ids import PassageIds
from .segments import Segment, exact_segment
from .tokens import ranges


TOKENS_PER_CHECK = 2**15
LARGEST_NORM = 60_000


class BuildSettings(NamedTuple):
    """How an index is built and its later additions are treated; see [`LateInteractionIndex.build`]."""

    nbits: int | str | None = "auto"
    num_centroids: int | None = None
    pooling_factor: int = 1
    seed: int = 0

    def checked(self):
        """The same as plain numbers; a `ValueError` if a value is not possible."""
        if self.nbits not in ("auto", None):
            check_nbits(self.nbits)
        return BuildSettings(
            self.nbits if self.nbits in ("auto", None) else int(self.nbits),
            None if self.num_centroids is None else check_integer("num_centroids", self.num_centroids),
            check_integer("pooling_factor", self.pooling_factor),
            check_integer("seed", self.seed, minimum=0),
        )


@dataclass(frozen=True, eq=False)
class Contents:
    """
    The passages of an index at one moment. It never changes, so that a search keeps the version it began with.

    Each id's slot is live in exactly one of the segments. `query_moments`, float64 `(embedding_dim, embedding_dim)`,
    is the mean outer product of queries' vectors with themselves, where a sample of queries was given.
    """

    ids: PassageIds
    segments: tuple[Segment, ...]
    embedding_dim: int
    query_moments: np.ndarray | None = None

    @property
    def num_tokens(self):
        """Number of vectors, without those of removed passages."""
        return sum(segment.num_live_tokens for segment in self.segments)

    @property
    def training(self):
        """The [`Training`] that most tokens are compressed with, or `None`."""
        trained = [segment for segment in self.segments if segment.training is not None]
        return max(trained, key=lambda segment: segment.num_live_tokens).training if trained else None

    def place(self, id):
        """The segment that has a passage, and its place there."""
        slots = self.ids.find([id])
        return next((segment, int(places[0])) for segment in self.segments if len(places := segment.places(slots)))


def added(contents, embeddings):
    """With further passages, uncompressed so far, behind the others."""
    known = [embeddings.ids[i] for i in np.flatnonzero(contents.ids.slots(embeddings.ids) >= 0)]
    if known:
        raise ValueError(
            f"{len(known)} ids are in this index already, such as {known[:5]}: `update` replaces their vectors."
        )
    if not len(embeddings):
        return contents
    slots = np.arange(contents.ids.end, contents.ids.end + len(embeddings))
    segments = (*contents.segments, exact_segment(embeddings, slots))
    return replace(contents, ids=contents.ids.appended(embeddings.ids), segments=segments)


def removed(contents, ids):
    """Without some passages; the rows behind them move up."""
    slots = contents.ids.find(ids)
    if not len(slots):
        return contents
    ids, segments = contents.ids.without(slots), _without(contents.segments, slots)
    if ids.num_removed > max(len(ids), 1):  # as many slots again were added or removed since the last time
        return renumbered(replace(contents, ids=ids, segments=segments))
    return replace(contents, ids=ids, segments=segments)


def updated(contents, embeddings):
    """With other vectors, uncompressed so far, for some passages, which keep their rows."""
    rising = contents.ids.find(embeddings.ids)
    if not len(rising):
        return contents
    slots = contents.ids.slots(embeddings.ids)
    order = np.argsort(slots)
    if (np.diff(order) != 1).any():  # a segment's passages are in the order of rows, as equal scores need it
        values = embeddings.values[ranges(embeddings.offsets[order], embeddings.lengths[order])]
        embeddings = TokenEmbeddings(values, embeddings.lengths[order], [embeddings.ids[i] for i in order])
    segments = _without(contents.segments, rising)
    return replace(contents, segments=(*segments, exact_segment(embeddings, rising)))


def merged(parts):
    """The passages of several indexes, one after another, in the segments that they have."""
    segments, start = [], 0
    for part in parts:
        segments += [replace(each, slots=each.slots + start) for each in part.segments]
        start += part.ids.end
    known = (part.query_moments for part in parts if part.query_moments is not None)
    ids = PassageIds.concatenated([part.ids for part in parts])
    return Contents(ids, tuple(segments), parts[0].embedding_dim, next(known, None))


def renumbered(contents):
    """The same with slots that are rows, so that nothing is kept of removed ids."""
    if not contents.ids.num_removed:
        return contents
    segments = tuple(replace(each, slots=contents.ids.rows(each.slots)) for each in contents.segments)
    return replace(contents, ids=PassageIds.of(contents.ids), segments=segments)


def as_token_embeddings(embeddings, ids=None, mask=None):
    """[`TokenEmbeddings`] as they are, or made of arrays or tensors; see [`LateInteractionIndex.build`]."""
    if isinstance(embeddings, TokenEmbeddings):
        if ids is not None or mask is not None:
            raise ValueError("`TokenEmbeddings` have ids and lengths: leave `ids` and `mask` out.")
        return embeddings
    padded = getattr(embeddings, "ndim", None) == 3
    if not padded and not isinstance(embeddings, list | tuple):
        raise ValueError(
            "`embeddings` must be `TokenEmbeddings`, a list of arrays or tensors of shape (length, embedding_dim), or "
            f"one of shape (passages, length, embedding_dim), got "
            f"{_kind_of(embeddings)}: use `DenseIndex` for one vector per passage."
        )
    if ids is None or isinstance(ids, str) or len(ids := list(ids)) != len(embeddings):
        got = repr(ids) if ids is None or isinstance(ids, str) else f"{len(ids)} ids"
        raise ValueError(f"`ids` must be a list of one id per passage, {len(embeddings)} in all, got {got}.")
    check_ids_are_texts(ids)
    if padded:
        mask = torch.ones(tuple(embeddings.shape[:2]), dtype=torch.bool) if mask is None else mask
        return TokenEmbeddings.from_padded(embeddings, mask, ids)
    if mask is not None:
        raise ValueError("`mask` goes with one padded array, got a list: give each passage the vectors that count.")
    arrays = [_as_array(vectors, id) for vectors, id in zip(embeddings, ids, strict=True)]
    sizes = {array.shape[1] for array in arrays}
    if len(sizes) > 1:
        raise ValueError(f"The passages' vectors must have one number of dimensions, got {sorted(sizes)}.")
    values = np.concatenate(arrays) if arrays else np.zeros((0, 0), np.float32)
    return TokenEmbeddings(values, np.array([len(array) for array in arrays], dtype=np.int64), ids)


def check_vectors(embeddings, embedding_dim=None):
    """A `ValueError` unless these [`TokenEmbeddings`] fit into an index."""
    if embedding_dim is not None and embeddings.embedding_dim != embedding_dim:
        raise ValueError(
            f"The embeddings have {embeddings.embedding_dim} dimensions, the index has {embedding_dim}: embed with "
            "the model that embedded its passages."
        )
    for start in range(0, len(embeddings.values), TOKENS_PER_CHECK):
        block = np.asarray(embeddings.values[start : start + TOKENS_PER_CHECK], dtype=np.float32)
        fits = np.einsum("ij,ij->i", block, block) <= LARGEST_NORM**2  # false for NaN
        if not fits.all():
            token = start + int(fits.argmin())
            passage = embeddings.ids[int(np.searchsorted(embeddings.offsets, token, side="right")) - 1]
            raise ValueError(
                f"The passage `{passage}` has a NaN or infinite value in its vectors, or a vector longer than "
                f"{LARGEST_NORM:,}: embed it again."
            )


def _as_array(vectors, id):
    """The vectors of one passage as a float array; float16 stays float16."""
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().cpu()
        vectors = (vectors if vectors.dtype in (torch.float16, torch.float32) else vectors.float()).numpy()
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise ValueError(
            f"Passage `{id}` must have a float array or tensor of shape (length, embedding_dim), got "
            f"{_kind_of(vectors)}."
        )
    return vectors


def _kind_of(value):
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of {value.dtype} and shape {tuple(shape)}")


def _without(segments, slots):
    """Segments without the passages in some slots, if anything is left of them."""
    segments = (segment.without(slots) for segment in segments)
    return tuple(segment for segment in segments if segment.num_live)


__all__ = [
    "BuildSettings",
    "Contents",
    "added",
    "as_token_embeddings",
    "check_vectors",
    "merged",
    "removed",
    "renumbered",
    "updated",
]
