"""Metrics for retrieval and reading, benchmarks, retrieval and reader runs, and reports."""

from ..utils.lazy import lazy_exports


# Imported at first use: metrics alone need neither torch nor datasets
_LAZY = {
    "Benchmark": ".benchmarks",
    "EvaluationReport": ".report",
    "RANKING_FORMATS": ".ranking_files",
    "RankedPassages": ".rankings",
    "answer_log_likelihoods": ".reader_runs",
    "answer_recall_at_k": ".answers",
    "average_precision": ".measures",
    "check_ranking_ids": ".ranking_files",
    "compare_runs": ".report",
    "drop_own_ids": ".rankings",
    "evaluate_pipeline": ".report",
    "evaluate_rankings": ".measures",
    "evaluate_reader": ".reader_runs",
    "evaluate_systems": ".report",
    "exact_match": ".answers",
    "f1_score": ".answers",
    "fuse_rankings": ".retrieval_runs",
    "has_answer": ".answers",
    "load_benchmark": ".benchmarks",
    "load_qrels": ".ranking_files",
    "load_ranking": ".ranking_files",
    "load_xor_answers": ".xor_files",
    "load_xor_retrieve_predictions": ".xor_files",
    "metric_path": ".metrics",
    "ndcg_at_k": ".measures",
    "parse_measures": ".measures",
    "passage_tokenizer": ".xor_metrics",
    "plot_by_language": ".plots",
    "plot_recall_curve": ".plots",
    "rank_by_bm25": ".retrieval_runs",
    "rank_passages": ".retrieval_runs",
    "read_answers": ".reader_runs",
    "recall_at_k": ".measures",
    "reciprocal_rank": ".measures",
    "require_matplotlib": ".plots",
    "save_ranking": ".ranking_files",
    "success_at_k": ".measures",
    "write_xor_answers": ".xor_files",
    "write_xor_retrieve_predictions": ".xor_files",
    "xor_english_span_metrics": ".xor_metrics",
    "xor_full_metrics": ".xor_metrics",
    "xor_retrieve_metrics": ".xor_metrics",
    "xor_retrieve_predictions": ".xor_files",
}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _LAZY)
