"""Metrics of retrieval and reading, and runs of retrieval."""

from ..utils.lazy import lazy_exports


# Imported at first use: a metric alone needs neither torch nor datasets
_LAZY = {
    "Benchmark": ".benchmarks",
    "RankedPassages": ".rankings",
    "answer_recall_at_k": ".answers",
    "average_precision": ".retrieval",
    "compare_runs": ".significance",
    "evaluate_rankings": ".measures",
    "evaluate_systems": ".report",
    "exact_match": ".answers",
    "f1_score": ".answers",
    "fuse_rankings": ".fusion",
    "has_answer": ".answers",
    "load_benchmark": ".benchmarks",
    "load_qrels": ".qrels",
    "load_ranking": ".ranking_files",
    "load_xor_answers": ".xor_files",
    "load_xor_retrieve_predictions": ".xor_files",
    "ndcg_at_k": ".retrieval",
    "rank_by_bm25": ".bm25",
    "rank_passages": ".runner",
    "recall_at_k": ".retrieval",
    "reciprocal_rank": ".retrieval",
    "save_ranking": ".ranking_files",
    "success_at_k": ".retrieval",
    "write_xor_answers": ".xor_files",
    "write_xor_retrieve_predictions": ".xor_files",
    "xor_english_span_metrics": ".xor_answers",
    "xor_full_metrics": ".xor_answers",
    "xor_retrieve_metrics": ".xor_tydi",
    "xor_retrieve_predictions": ".xor_files",
}


__getattr__, __dir__, __all__ = lazy_exports(__name__, _LAZY)
