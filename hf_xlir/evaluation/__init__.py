"""Metrics of retrieval and reading, and runs of retrieval."""

import importlib

from .answers import answer_recall_at_k, exact_match, f1_score, has_answer
from .measures import evaluate_rankings
from .rankings import RankedPassages
from .retrieval import average_precision, ndcg_at_k, recall_at_k, reciprocal_rank, success_at_k


# These pull in torch or datasets, which those who only compute a metric should not wait for.
_LAZY = {
    "Benchmark": ".benchmarks",
    "compare_runs": ".significance",
    "evaluate_systems": ".report",
    "fuse_rankings": ".fusion",
    "load_benchmark": ".benchmarks",
    "load_qrels": ".qrels",
    "load_ranking": ".ranking_files",
    "load_xor_answers": ".xor_files",
    "load_xor_retrieve_predictions": ".xor_files",
    "rank_by_bm25": ".bm25",
    "rank_passages": ".runner",
    "save_ranking": ".ranking_files",
    "write_xor_answers": ".xor_files",
    "write_xor_retrieve_predictions": ".xor_files",
    "xor_english_span_metrics": ".xor_answers",
    "xor_full_metrics": ".xor_answers",
    "xor_retrieve_metrics": ".xor_tydi",
    "xor_retrieve_predictions": ".xor_files",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY])


__all__ = [
    "Benchmark",
    "RankedPassages",
    "answer_recall_at_k",
    "average_precision",
    "compare_runs",
    "evaluate_rankings",
    "evaluate_systems",
    "exact_match",
    "f1_score",
    "fuse_rankings",
    "has_answer",
    "load_benchmark",
    "load_qrels",
    "load_ranking",
    "load_xor_answers",
    "load_xor_retrieve_predictions",
    "ndcg_at_k",
    "rank_by_bm25",
    "rank_passages",
    "recall_at_k",
    "reciprocal_rank",
    "save_ranking",
    "success_at_k",
    "write_xor_answers",
    "write_xor_retrieve_predictions",
    "xor_english_span_metrics",
    "xor_full_metrics",
    "xor_retrieve_metrics",
    "xor_retrieve_predictions",
]
