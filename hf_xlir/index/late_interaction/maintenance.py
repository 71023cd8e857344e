"""Segment maintenance: new vectors are compressed, small segments become one, and all is compressed anew in time."""

from dataclasses import replace

import numpy as np
from transformers.utils import logging

from ..embeddings import TokenEmbeddings
from .codec import SAMPLE_PER_CENTROID
from .contents import renumbered
from .segments import compressed_segment, exact_segment, joined, mean_residual, stored_embeddings, train


logger = logging.get_logger(__name__)

AUTOMATIC_NBITS = 4
MOST_EXACT_TOKENS = 2**17  # of an automatic index
GROWTH = 4  # times as many tokens as a codec was trained on: it would have twice the centroids
DRIFT = 1.1  # times the squared distance from centroids that new vectors of the same kind have
REMOVED = 0.25  # of a segment's tokens
RATIO = 4  # a segment is larger than this many times all smaller ones together
TOKENS_JOINED_ANYWAY = 2**14  # smaller segments become one at any ratio


def maintained(contents, settings, maintain=True):
    """
    The contents after a change, with new vectors compressed if the index is compressed. With `maintain`, segments are
    joined and everything is compressed anew where a limit is passed; [`LateInteractionIndex`] documents the limits.
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
    """
    The contents in one segment, with a new codec where the index is compressed.

    `embeddings`, original vectors in any order, may have further passages. Without them, what is stored is decoded and
    rounded a second time.
    """
    if embeddings is not None:
        given = set(embeddings.ids)
        missing = [id for id in contents.ids if id not in given]
        if missing:
            raise ValueError(f"`embeddings` lacks {len(missing)} passages of this index, such as {missing[:5]}.")
    contents = renumbered(contents)
    if not contents.segments:
        return contents
    if embeddings is not None:
        rows = contents.ids.slots(embeddings.ids)
        contents = replace(contents, segments=(exact_segment(embeddings, rows, np.flatnonzero(rows < 0)),))
    if not _is_compressed(contents, settings):
        return compacted(contents)
    source = stored_embeddings(contents.segments, contents.ids, contents.embedding_dim)
    nbits = AUTOMATIC_NBITS if settings.nbits == "auto" else settings.nbits
    training = train(source, nbits, settings.num_centroids, settings.seed, contents.query_moments)
    segment = compressed_segment(source, np.arange(len(contents.ids)), training, training.residual)
    return replace(contents, segments=(segment,))


def compacted(contents):
    """The contents with one segment per codec, and nothing left of removed passages."""
    contents = renumbered(contents)
    groups = _by_training(contents.segments).values()
    segments = (group[0] if len(group) == 1 and _is_in_order(group[0]) else joined(group) for group in groups)
    return replace(contents, segments=tuple(segments))


def _is_in_order(segment):
    return not len(segment.removed) and bool((np.diff(segment.slots) > 0).all())


def _is_compressed(contents, settings):
    if settings.nbits != "auto":
        return settings.nbits is not None
    return contents.training is not None or contents.num_tokens > MOST_EXACT_TOKENS


def _compressed(segment, training):
    """An uncompressed segment's passages that were not removed, compressed."""
    residual = segment.residual
    if len(segment.removed):
        segment = joined([segment])
    names = [str(slot) for slot in segment.slots]
    source = TokenEmbeddings(segment.tokens.arrays["values"], segment.lengths, names)
    return compressed_segment(source, segment.slots, training, residual)


def _reason_to_rebuild(segments, training):
    """Why the passages of a codec need another one, or `None`."""
    sizes = np.array([segment.num_live_tokens for segment in segments])
    if sizes.sum() > GROWTH * training.num_tokens:
        return f"it has {sizes.sum()} vectors, but its codec was trained on {training.num_tokens}"
    residual = np.average([segment.residual for segment in segments], weights=sizes)
    # New vectors lie further from a centroid than the n vectors it is the mean of: (1 + 1/n) to (1 - 1/n) on average
    per_centroid = max(2, min(training.num_tokens / len(training.codec.centroids), SAMPLE_PER_CENTROID))
    usual = training.residual * (per_centroid + 1) / (per_centroid - 1)
    if residual > DRIFT * usual:
        return f"its vectors' mean squared distance from centroids is {residual:.4f} instead of {usual:.4f}"
    return None


def _joined_where_due(segments):
    """Segments without those that lost much, and without small ones beside larger ones."""
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


__all__ = ["compacted", "maintained", "rebuilt"]
