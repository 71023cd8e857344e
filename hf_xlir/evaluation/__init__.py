"""Metrics of retrieval and reading, and runs of retrieval."""

import importlib

from .answers import answer_recall_at_k, exact_match, f1_score, has_answer
from .rankings import RankedPassages
from .retrieval import average_precision, ndcg_at_k, recall_at_k, reciprocal_rank, success_at_k


# Runs pull in torch and datasets, which those who only compute a metric should not wait for.
_LAZY = {
    "load_ranking": ".ranking_files",
    "rank_by_bm25": ".bm25",
    "rank_passages": ".runner",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY])


__all__ = [
    "RankedPassages",
    "answer_recall_at_k",
    "average_precision",
    "exact_match",
    "f1_score",
    "has_answer",
    "load_ranking",
    "ndcg_at_k",
    "rank_by_bm25",
    "rank_passages",
    "recall_at_k",
    "reciprocal_rank",
    "success_at_k",
]
