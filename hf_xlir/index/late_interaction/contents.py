"""What a late-interaction index holds, and its changes: every change makes new contents that share unchanged parts."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from transformers.utils import logging

from ..checks import rows_of_ids
from ..embeddings import TokenEmbeddings
from .clustering import SAMPLE_PER_CENTROID
from .exact_tokens import ranges
from .residual_codec import check_nbits
from .segments import Segment, compressed_segment, exact_segment, joined, mean_residual, stored_embeddings, train


logger = logging.get_logger(__name__)

AUTOMATIC_NBITS = 4
MOST_EXACT_TOKENS = 2**17  # of an automatic index
GROWTH = 4  # times as many tokens as a codec was trained on: it would have twice the centroids
DRIFT = 1.1  # times the squared distance from centroids that fresh vectors of the same kind have
REMOVED = 0.25  # of a segment's tokens
RATIO = 4  # each segment is larger than so many times all smaller ones together
TOKENS_JOINED_ANYWAY = 2**14  # segments up to this size become one whatever the ratio
TOKENS_PER_CHECK = 2**15
LARGEST_NORM = 60_000


class Settings(NamedTuple):
    """How an index is built, and what later additions follow; see [`LateInteractionIndex.build`]."""

    nbits: int | str | None = "auto"
    num_centroids: int | None = None
    pooling_factor: int = 1
    seed: int = 0

    def checked(self):
        """The same as plain numbers; a `ValueError` if a value makes no sense."""
        if self.nbits not in ("auto", None):
            check_nbits(self.nbits)
        for name, value in self._asdict().items():
            if name == "nbits" or (name, value) == ("num_centroids", None):
                continue
            least = 0 if name == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
        return Settings(*(int(value) if isinstance(value, np.integer) else value for value in self))


@dataclass(frozen=True, eq=False)
class Contents:
    r"""
    The passages of an index at one moment. A search that has begun goes on with what it began with.

    Args:
        ids (`list[str]`):
            The passages' ids, in the order of rows.
        segments (`tuple[Segment, ...]`):
            Each row is in exactly one of them.
        embedding_dim (`int`):
            Number of dimensions of a vector.
        query_moments (`numpy.ndarray` of float64 and shape `(embedding_dim, embedding_dim)`, *optional*):
            Mean outer product of queries' vectors with themselves, where a sample of queries was given.
    """

    ids: list[str]
    segments: tuple[Segment, ...]
    embedding_dim: int
    query_moments: np.ndarray | None = None

    def __reduce__(self):
        # Without the dictionary
        return Contents, (self.ids, self.segments, self.embedding_dim, self.query_moments)

    @cached_property
    def row_of_id(self):
        """Each id's row."""
        return {id: row for row, id in enumerate(self.ids)}

    @property
    def num_tokens(self):
        """Number of vectors, without those of removed passages."""
        return sum(segment.num_live_tokens for segment in self.segments)

    @property
    def training(self):
        """The [`Training`] that most tokens are compressed with, or `None`."""
        trained = [segment for segment in self.segments if segment.training is not None]
        return max(trained, key=lambda segment: segment.num_live_tokens).training if trained else None

    def rows(self, ids, name="ids"):
        """Rows of some ids, rising, each once; a `ValueError` names those that are unknown."""
        return rows_of_ids(ids, self.row_of_id, name)

    def place(self, row):
        """The segment that a row is in, and its position there."""
        for segment in self.segments:
            places = np.flatnonzero(segment.rows == row)
            if len(places):
                return segment, int(places[0])
        raise IndexError(f"There is no row {row} among {len(self.ids)}.")


def added(contents, embeddings):
    """With further passages, uncompressed so far, behind the others."""
    known = [id for id in embeddings.ids if id in contents.row_of_id]
    if known:
        raise ValueError(
            f"{len(known)} ids are in this index already, such as {known[:5]}: `update` replaces their vectors."
        )
    rows = np.arange(len(contents.ids), len(contents.ids) + len(embeddings))
    segments = (*contents.segments, exact_segment(embeddings, rows)) if len(embeddings) else contents.segments
    return replace(contents, ids=[*contents.ids, *embeddings.ids], segments=segments)


def removed(contents, ids):
    """Without some passages; the rows behind them move up."""
    keep = np.ones(len(contents.ids) + 1, dtype=bool)
    keep[contents.rows(ids)] = False
    keep[-1] = False  # where the -1 of passages that are removed already points to
    rows = np.where(keep, np.cumsum(keep) - 1, -1)
    ids = [id for id, kept in zip(contents.ids, keep[:-1].tolist(), strict=True) if kept]
    segments = (segment.with_rows(rows[segment.rows]) for segment in contents.segments)
    return replace(contents, ids=ids, segments=tuple(segment for segment in segments if (segment.rows >= 0).any()))


def updated(contents, embeddings):
    """With other vectors, uncompressed so far, for some passages, which keep their rows."""
    contents.rows(embeddings.ids)  # raises for unknown ids
    rows = np.array([contents.row_of_id[id] for id in embeddings.ids], dtype=np.int64)
    if not len(rows):
        return contents
    replaced = np.zeros(len(contents.ids) + 1, dtype=bool)
    replaced[rows] = True
    segments = [each.with_rows(np.where(replaced[each.rows], -1, each.rows)) for each in contents.segments]
    segments = [segment for segment in segments if (segment.rows >= 0).any()]
    order = np.argsort(rows)
    if (np.diff(order) != 1).any():  # a segment's passages are in the order of rows, as equal scores need it
        values = embeddings.values[ranges(embeddings.offsets[order], embeddings.lengths[order])]
        embeddings = TokenEmbeddings(values, embeddings.lengths[order], [embeddings.ids[i] for i in order])
    return replace(contents, segments=(*segments, exact_segment(embeddings, rows[order])))


def merged(parts):
    """The passages of several indexes, one after another, in the segments that they have."""
    ids, segments = [], []
    for part in parts:
        segments += [each.with_rows(np.where(each.rows < 0, -1, each.rows + len(ids))) for each in part.segments]
        ids += part.ids
    known = (part.query_moments for part in parts if part.query_moments is not None)
    return Contents(ids, tuple(segments), parts[0].embedding_dim, next(known, None))


def settled(contents, settings, maintain=True):
    r"""
    With what is new compressed if the index is to be, and, where a limit is passed, everything compressed anew or
    segments joined. The limits are in the documentation of [`LateInteractionIndex`].

    Args:
        contents ([`Contents`]):
            As changed.
        settings ([`Settings`]):
            Of the index.
        maintain (`bool`, *optional*, defaults to `True`):
            Whether to do more than compress what is new.

    Returns:
        [`Contents`].
    """
    if not contents.segments or not _is_compressed(contents, settings):
        return replace(contents, segments=_joined_where_due(contents.segments)) if maintain else contents
    training = contents.training
    if training is None:
        return rebuilt(contents, settings)
    segments = [
        replace(segment, residual=mean_residual(segment.tokens.arrays["values"], training.codec))
        if segment.training is None
        else segment
        for segment in contents.segments
    ]
    if maintain:
        reason = _reason_to_rebuild([each for each in segments if each.training in (None, training)], training)
        if reason:
            logger.info(f"The index is compressed anew: {reason}.")
            return rebuilt(contents, settings)
    segments = [_compressed(each, training) if each.training is None else each for each in segments]
    return replace(contents, segments=_joined_where_due(segments) if maintain else tuple(segments))


def rebuilt(contents, settings, embeddings=None):
    r"""
    Everything in one segment, with a new codec where the index is compressed.

    Args:
        contents ([`Contents`]):
            The passages.
        settings ([`Settings`]):
            Of the index.
        embeddings ([`TokenEmbeddings`], *optional*):
            The passages' original vectors, in any order, among others if need be. By default what is stored is
            decoded, so that it is rounded a second time.

    Returns:
        [`Contents`].
    """
    if embeddings is not None:
        given = set(embeddings.ids)
        missing = [id for id in contents.ids if id not in given]
        if missing:
            raise ValueError(f"`embeddings` lacks {len(missing)} passages of this index, such as {missing[:5]}.")
        rows = np.array([contents.row_of_id.get(id, -1) for id in embeddings.ids])
        contents = replace(contents, segments=(exact_segment(embeddings, rows),))
    if not contents.segments:
        return contents
    if not _is_compressed(contents, settings):
        return compacted(contents)
    source = stored_embeddings(contents.segments, contents.ids, contents.embedding_dim)
    nbits = AUTOMATIC_NBITS if settings.nbits == "auto" else settings.nbits
    training = train(source, nbits, settings.num_centroids, settings.seed, contents.query_moments)
    segment = compressed_segment(source, np.arange(len(contents.ids)), training, training.residual)
    return replace(contents, segments=(segment,))


def compacted(contents):
    """With one segment a codec, and nothing left of removed passages."""
    groups = _by_training(contents.segments)
    segments = (
        group[0] if len(group) == 1 and (group[0].rows >= 0).all() else joined(group) for group in groups.values()
    )
    return replace(contents, segments=tuple(segments))


def check_vectors(embeddings, embedding_dim=None):
    """Raise a `ValueError` unless these are [`TokenEmbeddings`] that an index can hold."""
    if not isinstance(embeddings, TokenEmbeddings):
        raise ValueError(
            f"`embeddings` must be `TokenEmbeddings`, got {type(embeddings).__name__}: embed the passages with a "
            "model that has one vector a token, or use `add_dense_index` for one vector a passage."
        )
    if embedding_dim is not None and embeddings.embedding_dim != embedding_dim:
        raise ValueError(
            f"The embeddings have {embeddings.embedding_dim} dimensions, the index has {embedding_dim}: embed with "
            "the model that embedded its passages."
        )
    for start in range(0, len(embeddings.values), TOKENS_PER_CHECK):
        block = np.asarray(embeddings.values[start : start + TOKENS_PER_CHECK], dtype=np.float32)
        fits = np.einsum("ij,ij->i", block, block) <= LARGEST_NORM**2  # of NaN it is false
        if not fits.all():
            token = start + int(fits.argmin())
            passage = embeddings.ids[int(np.searchsorted(embeddings.offsets, token, side="right")) - 1]
            raise ValueError(
                f"The passage `{passage}` has a NaN or infinite value in its vectors, or a vector longer than "
                f"{LARGEST_NORM:,}: embed it again."
            )


def _is_compressed(contents, settings):
    if settings.nbits != "auto":
        return settings.nbits is not None
    return contents.training is not None or contents.num_tokens > MOST_EXACT_TOKENS


def _compressed(segment, training):
    """An uncompressed segment's passages that are not removed, compressed."""
    rows = segment.rows[segment.rows >= 0]
    ids = [str(row) for row in rows]  # of messages only
    ranks = np.where(segment.rows >= 0, np.cumsum(segment.rows >= 0) - 1, -1)
    source = stored_embeddings([segment.with_rows(ranks)], ids, segment.tokens.arrays["values"].shape[1])
    return compressed_segment(source, rows, training, segment.residual)


def _reason_to_rebuild(segments, training):
    """Why the passages of a codec want another one, or `None`."""
    sizes = np.array([segment.num_live_tokens for segment in segments])
    if sizes.sum() > GROWTH * training.num_tokens:
        return f"it has {sizes.sum()} vectors, but its codec was trained on {training.num_tokens}"
    residual = np.average([segment.residual for segment in segments], weights=sizes)
    # Fresh vectors lie further from a centroid than the n it is the mean of: (1 + 1/n) to (1 - 1/n) on average
    per_centroid = max(2, min(training.num_tokens / len(training.codec.centroids), SAMPLE_PER_CENTROID))
    usual = training.residual * (per_centroid + 1) / (per_centroid - 1)
    if residual > DRIFT * usual:
        return f"its vectors' mean squared distance from centroids is {residual:.4f} instead of {usual:.4f}"
    return None


def _joined_where_due(segments):
    """Without segments of which much was removed, and without small ones beside larger ones."""
    result = []
    for group in _by_training(segments).values():
        group.sort(key=lambda segment: -segment.num_live_tokens)
        sizes = np.array([segment.num_live_tokens for segment in group])
        smaller = sizes.sum() - sizes.cumsum()
        due = (smaller > 0) & ((sizes <= RATIO * smaller) | (sizes <= TOKENS_JOINED_ANYWAY))
        first = int(due.argmax()) if due.any() else len(group)
        for segment in group[:first]:
            much = segment.num_live_tokens < (1 - REMOVED) * segment.tokens.num_tokens
            result.append(joined([segment]) if much else segment)
        if due.any():
            result.append(joined(group[first:]))
    return tuple(result)


def _by_training(segments):
    groups = {}
    for segment in segments:
        groups.setdefault(id(segment.training), []).append(segment)
    return groups


__all__ = [
    "Contents",
    "Settings",
    "added",
    "check_vectors",
    "compacted",
    "merged",
    "rebuilt",
    "removed",
    "settled",
    "updated",
]
