"""Metrics of retrieval and reading."""

from .answers import answer_recall_at_k, exact_match, f1_score, has_answer
from .retrieval import ndcg_at_k, recall_at_k, reciprocal_rank, success_at_k


__all__ = [
    "answer_recall_at_k",
    "exact_match",
    "f1_score",
    "has_answer",
    "ndcg_at_k",
    "recall_at_k",
    "reciprocal_rank",
    "success_at_k",
]
