"""Second moments of queries: of a sample, or of pieces of passages where there is no sample."""

import numpy as np
import torch
from transformers.utils import logging

from ...models import processing_retriever
from ..checks import check_queries
from ..embeddings import QueryEmbeddings
from .codec import second_moments


logger = logging.get_logger(__name__)

MOST_PIECES = 100
PASSAGES_PER_PIECE = 10  # in a small corpus, so that pieces take little of the time
WORDS = 4, 10  # of a piece, at least and at most
CHARACTERS = 10, 40  # of a piece of a text without spaces
PIECES_PER_BATCH = 25


def query_moments(queries, embedding_dim):
    """
    Mean outer product with themselves of the vectors of [`QueryEmbeddings`], from a model with one vector per token:
    float64 `(embedding_dim, embedding_dim)`.
    """
    if not isinstance(queries, QueryEmbeddings):
        raise ValueError(
            f"`queries` must be `QueryEmbeddings`, got {type(queries).__name__}: embed questions with `embed_queries`."
        )
    embeddings, mask = check_queries(queries.embeddings, queries.mask, embedding_dim, single=False)
    return second_moments(embeddings[mask]).numpy()


def moments_of_pieces(encode, passages):
    """
    [`query_moments`] of pieces of passages that are embedded as queries, with a query's markers and expansion, which
    is most of what tells queries from passages. The same passages give the same moments.

    `encode` embeds a list of texts as queries and returns the vectors that count, `(number of tokens, embedding_dim)`.
    If they are NaN or infinite, there is a warning and the result is `None`, since the passages are embedded by then.
    """
    pieces = pieces_of(passages)
    vectors = []
    disabled, processing_retriever.logger.disabled = processing_retriever.logger.disabled, True
    try:  # no warning for pieces that are cut to a query's length
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
    """Random pieces of some words from random passages, a tenth of them and at most 100."""
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
    """A random run of at least `least` and at most `most` neighbours, or all if there are fewer."""
    size = int(generator.integers(least, most + 1))
    start = int(generator.integers(0, max(len(units) - size, 0) + 1))
    return units[start : start + size]


__all__ = ["moments_of_pieces", "pieces_of", "query_moments"]
