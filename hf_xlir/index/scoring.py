"""Late interaction over packed token vectors: pure tensors, no files."""

from typing import NamedTuple

import torch


class TopK(NamedTuple):
    r"""
    The best passages so far.

    Args:
        scores (`torch.FloatTensor` of shape `(num_queries, k)`):
            In falling order per query.
        rows (`torch.LongTensor` of shape `(num_queries, k)`):
            The passages' rows; of equal scores the lowest row comes first.
    """

    scores: torch.Tensor
    rows: torch.Tensor

    @classmethod
    def empty(cls, num_queries):
        """No passages yet."""
        return cls(torch.empty(num_queries, 0), torch.empty(num_queries, 0, dtype=torch.long))

    def merge(self, scores, rows, k):
        """The best `k` of these and of further passages, whose rows (rising) are all higher than those here."""
        scores = torch.cat([self.scores, scores], dim=1)
        rows = torch.cat([self.rows, rows.expand(len(scores), -1)], dim=1)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return TopK(scores[:, :k], rows.gather(1, order[:, :k]))


def packed_maxsim_scores(query_embeddings, document_embeddings, document_lengths):
    """
    MaxSim over packed documents: one matrix product for all tokens, then a maximum per document. Query vectors that do
    not count are 0, which adds 0 to every score.

    Shapes: `(num_queries, query_length, embedding_dim)`, `(num_tokens, embedding_dim)` of one document after another,
    and `(num_documents,)` numbers of vectors per document, at least 1. The result, at least float32, has the shape
    `(num_queries, num_documents)`.
    """
    num_queries, query_length, _ = query_embeddings.shape
    similarities = document_embeddings @ query_embeddings.flatten(0, 1).T  # (num_tokens, num_queries * query_length)
    document = torch.arange(len(document_lengths), device=document_lengths.device).repeat_interleave(document_lengths)
    best = similarities.new_full((len(document_lengths), similarities.shape[1]), -torch.inf)
    best.scatter_reduce_(0, document[:, None].expand_as(similarities), similarities, "amax")
    best = best.unflatten(1, (num_queries, query_length))
    return best.sum(dim=2, dtype=torch.promote_types(best.dtype, torch.float32)).T


__all__ = ["TopK", "packed_maxsim_scores"]
