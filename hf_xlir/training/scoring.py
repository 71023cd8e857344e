"""Scores of a batch in training: of all its pairs, or of each query with its own documents."""

import math

import torch
from torch.utils.checkpoint import checkpoint

from ..models.late_interaction import maxsim_pair_scores, maxsim_scores
from .distributed import gather_with_gradient
from .tensor_checks import floating


MOST_SIMILARITIES = 2**27  # of token pairs at once: half a gigabyte in float32


def batch_scores(queries, documents):
    """
    Scores of this process's queries against the documents of all processes.

    Args:
        queries (`RetrieverOutput`):
            The embeddings of `num_queries` queries.
        documents (`RetrieverOutput`):
            The embeddings of this process's documents.

    Returns:
        `torch.FloatTensor` of shape `(num_queries, number of documents of all processes)`, at least float32: rounded
        to half precision, the scores of good documents tie.
    """
    # Half precision is for what goes between processes
    embeddings = floating(gather_with_gradient(documents.embeddings), "documents")
    asked = floating(queries.embeddings, "queries")
    if documents.embedding_mask is None:
        return asked @ embeddings.T
    mask = gather_with_gradient(documents.embedding_mask)
    return _maxsim_in_blocks(asked, embeddings, queries.embedding_mask, mask, MOST_SIMILARITIES)


def pair_scores(queries, documents, present=None):
    """
    Scores of each query with its own documents.

    Args:
        queries (`RetrieverOutput`):
            The embeddings of `num_queries` queries.
        documents (`RetrieverOutput`):
            The embeddings of their documents, those of a query one after another, all of the first query first.
        present (`torch.BoolTensor` of shape `(num_queries, nway)`, *optional*):
            Where queries have different numbers of documents: `True` for each document in `documents`. The score at
            the other places has no meaning.

    Returns:
        `torch.FloatTensor` of shape `(num_queries, nway)`, at least float32.
    """
    asked = floating(queries.embeddings, "queries")
    embeddings, mask = floating(documents.embeddings, "documents"), documents.embedding_mask
    if present is None:
        shape = len(asked), -1
        embeddings = embeddings.unflatten(0, shape)  # (num_queries, nway, ...)
        mask = None if mask is None else mask.unflatten(0, shape)
    else:
        embeddings = _spread(embeddings, present, 0.0)
        mask = None if mask is None else _spread(mask, present, True)  # a document of masked tokens would be an error
    if mask is None:
        return torch.einsum("qd,qnd->qn", asked, embeddings)
    return maxsim_pair_scores(asked, embeddings, queries.embedding_mask, mask)


@torch.no_grad()
def score_margin(scores, positive_indices, left_out=None):
    """
    How far the positive's score is above the best negative's, the mean over queries: what a retriever gets right is
    above 0.

    Args:
        scores (`torch.FloatTensor` of shape `(num_queries, num_documents)`):
            Scores, higher is better.
        positive_indices (`torch.LongTensor` of shape `(num_queries,)`):
            Column of each query's positive.
        left_out (`torch.BoolTensor` of shape `(num_queries, num_documents)`, *optional*):
            `True` for documents that are no negatives.

    Returns:
        `torch.FloatTensor`: A scalar; queries without a negative do not count.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training.scoring import score_margin

    >>> score_margin(torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 5.0]]), torch.tensor([0, 1]))  # 1 and -4
    tensor(-1.5000)

    ```
    """
    own = positive_indices[:, None]
    negatives = scores if left_out is None else scores.masked_fill(left_out, -torch.inf)
    best = negatives.scatter(1, own, -torch.inf).amax(dim=1)  # (num_queries,)
    counts = best > -torch.inf
    margins = torch.where(counts, scores.gather(1, own)[:, 0] - best, 0.0)
    return margins.sum() / counts.sum().clamp(min=1)


def _maxsim_in_blocks(queries, documents, query_mask, document_mask, most):
    """
    Late-interaction scores of all pairs. In batches of thousands the similarities of all tokens exceed any memory:
    more than `most` are computed block by block, and once more for the gradient.
    """
    tokens = queries.shape[1] * documents.shape[1]  # similarities of a query and a document
    if len(queries) * len(documents) * tokens <= most:
        return maxsim_scores(queries, documents, query_mask, document_mask)
    num_documents = min(len(documents), max(1, math.isqrt(most // tokens)))  # square blocks are the fewest products
    num_queries = max(1, most // (tokens * num_documents))
    query_blocks = list(zip(queries.split(num_queries), query_mask.split(num_queries), strict=True))
    columns = []
    for embeddings, mask in zip(documents.split(num_documents), document_mask.split(num_documents), strict=True):
        blocks = [
            checkpoint(
                maxsim_scores, of_block, embeddings, mask_of_block, mask, use_reentrant=False, preserve_rng_state=False
            )
            for of_block, mask_of_block in query_blocks
        ]
        columns.append(torch.cat(blocks))
    return torch.cat(columns, dim=1)


def _spread(rows, present, fill):
    """Put rows one after another where `present` is `True`: `(number of True, ...)` to `(num_queries, nway, ...)`."""
    spread = rows.new_full((*present.shape, *rows.shape[1:]), fill)
    return spread.index_put((present,), rows)


__all__ = ["batch_scores", "pair_scores", "score_margin"]
