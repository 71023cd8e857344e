"""What queries are like: moments of a sample of them, or of pieces of passages where there is none."""

import numpy as np
import torch
from transformers.utils import logging

from ...models import processing_retriever
from ..checks import check_queries
from ..embeddings import QueryEmbeddings
from .clustering import second_moments


logger = logging.get_logger(__name__)

MOST_PIECES = 100
PASSAGES_PER_PIECE = 10  # in a small corpus, so that pieces take little of the time
WORDS = 4, 10  # of a piece, at least and at most
CHARACTERS = 10, 40  # of a piece of a text without spaces
PIECES_PER_BATCH = 25


def query_moments(queries, embedding_dim):
    r"""
    Mean outer product of queries' vectors with themselves: float64 of shape `(embedding_dim, embedding_dim)`.

    Args:
        queries ([`QueryEmbeddings`]):
            Of a model with one vector a token.
        embedding_dim (`int`):
            What the index has.

    Raises:
        ValueError: If these are not such embeddings, or they have a NaN or infinite value.
    """
    if not isinstance(queries, QueryEmbeddings):
        raise ValueError(f"`queries` must be `QueryEmbeddings`, as of `embed_queries`, got {type(queries).__name__}.")
    embeddings, mask = check_queries(queries.embeddings, queries.mask, embedding_dim, single=False)
    return second_moments(embeddings[mask]).numpy()


def moments_of_pieces(encode, passages):
    r"""
    [`query_moments`] of pieces of passages, embedded as queries: with a query's markers and what fills it up, which is
    most of what tells queries from passages.

    Args:
        encode (`Callable[[list[str]], torch.Tensor]`):
            Embeds texts as queries: the vectors that count, of shape `(number of tokens, embedding_dim)`.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `text`; some of them are read.

    Returns:
        `numpy.ndarray` of float64 and shape `(embedding_dim, embedding_dim)`, the same for the same passages; `None`,
        and a warning, if the model returns NaN or infinite values: passages are embedded by then.
    """
    pieces = pieces_of(passages)
    vectors = []
    disabled, processing_retriever.logger.disabled = processing_retriever.logger.disabled, True
    try:  # that a piece is too long for a query, and is cut, is no news
        for start in range(0, len(pieces), PIECES_PER_BATCH):
            vectors.append(encode(pieces[start : start + PIECES_PER_BATCH]))
    finally:
        processing_retriever.logger.disabled = disabled
    vectors = torch.cat(vectors).float()
    if not vectors.isfinite().all():
        logger.warning("The model returned NaN or infinite values for queries: no sample of them is kept.")
        return None
    return second_moments(vectors).numpy()


def pieces_of(passages, seed=0):
    """A text of some words from each of some passages, at most 100 and a tenth of them, by chance."""
    generator = np.random.default_rng(seed)
    number = min(MOST_PIECES, -(-len(passages) // PASSAGES_PER_PIECE))
    pieces = []
    for row in np.sort(generator.choice(len(passages), number, replace=False)):
        text = passages[int(row)]["text"].strip()
        words = text.split()
        if len(words) * CHARACTERS[1] >= len(text):
            pieces.append(" ".join(_run_of(words, generator, *WORDS)))
        else:
            pieces.append(_run_of(text, generator, *CHARACTERS).strip() or text)
    return pieces


def _run_of(units, generator, least, most):
    """So many neighbours, or all if there are fewer."""
    size = int(generator.integers(least, most + 1))
    start = int(generator.integers(0, max(len(units) - size, 0) + 1))
    return units[start : start + size]


__all__ = ["moments_of_pieces", "pieces_of", "query_moments"]
