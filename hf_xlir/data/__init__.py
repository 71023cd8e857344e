"""Loaders of passages, questions, training data and parallel text as `datasets.Dataset`, and collators of batches."""

from ..utils.lazy import lazy_exports


_LAZY = {
    "JUDGED_QUESTION_FEATURES": ".features",
    "MINI_WORLD_LANGUAGES": ".mini_world",
    "MiniWorld": ".mini_world",
    "PARALLEL_FEATURES": ".features",
    "PASSAGE_FEATURES": ".features",
    "QUERY_FEATURES": ".features",
    "QUESTION_FEATURES": ".features",
    "RANKED_EXAMPLE_FEATURES": ".features",
    "READER_EXAMPLE_FEATURES": ".features",
    "RETRIEVAL_EXAMPLE_FEATURES": ".features",
    "ReaderCollator": ".collators",
    "RetrieverCollator": ".collators",
    "TRAINING_ROW_FEATURES": ".features",
    "TRIPLE_FEATURES": ".features",
    "XOR_TYDI_LANGUAGES": ".xor_tydi",
    "XQUAD_LANGUAGES": ".xquad",
    "XQuAD": ".xquad",
    "load_mini_world": ".mini_world",
    "load_natural_questions": ".natural_questions",
    "load_parallel": ".parallel",
    "load_passages": ".collection",
    "load_queries": ".collection",
    "load_questions": ".collection",
    "load_reader_examples": ".reader_examples",
    "load_training_rows": ".training_rows",
    "load_triples": ".training_rows",
    "load_xor_translations": ".xor_tydi",
    "load_xor_tydi": ".xor_tydi",
    "load_xquad": ".xquad",
    "reduce_vocabulary": ".vocabulary",
    "resolve_file": ".building",
    "write_ranked_examples": ".reader_examples",
}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _LAZY)
