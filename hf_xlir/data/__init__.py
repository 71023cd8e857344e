"""Loaders of passages, questions, training data and parallel text, all as `datasets.Dataset`; and vocabularies."""

from .features import (
    JUDGED_QUESTION_FEATURES,
    PARALLEL_FEATURES,
    PASSAGE_FEATURES,
    QUERY_FEATURES,
    QUESTION_FEATURES,
    RANKED_EXAMPLE_FEATURES,
    READER_EXAMPLE_FEATURES,
    RETRIEVAL_EXAMPLE_FEATURES,
    TRAINING_ROW_FEATURES,
    TRIPLE_FEATURES,
)
from .mini_world import MiniWorld, load_mini_world
from .natural_questions import load_natural_questions
from .parallel import load_parallel
from .passages import load_passages
from .queries import load_queries
from .questions import load_questions
from .reader_examples import load_reader_examples
from .training_rows import load_training_rows
from .triples import load_triples
from .vocabulary import reduce_vocabulary, train_tokenizer
from .xor_tydi import load_xor_translations, load_xor_tydi
from .xquad import XQuAD, load_xquad


__all__ = [
    "JUDGED_QUESTION_FEATURES",
    "PARALLEL_FEATURES",
    "PASSAGE_FEATURES",
    "QUERY_FEATURES",
    "QUESTION_FEATURES",
    "RANKED_EXAMPLE_FEATURES",
    "READER_EXAMPLE_FEATURES",
    "RETRIEVAL_EXAMPLE_FEATURES",
    "TRAINING_ROW_FEATURES",
    "TRIPLE_FEATURES",
    "MiniWorld",
    "XQuAD",
    "load_mini_world",
    "load_natural_questions",
    "load_parallel",
    "load_passages",
    "load_queries",
    "load_questions",
    "load_reader_examples",
    "load_training_rows",
    "load_triples",
    "load_xor_translations",
    "load_xor_tydi",
    "load_xquad",
    "reduce_vocabulary",
    "train_tokenizer",
]
