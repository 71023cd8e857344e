"""The columns and types of the records that loaders return, as `datasets.Features`."""

from datasets import Features, List, Value


PASSAGE_FEATURES = Features({"id": Value("string"), "title": Value("string"), "text": Value("string")})

QUESTION_FEATURES = Features(
    {
        "id": Value("string"),
        "question": Value("string"),
        "answers": List(Value("string")),
        "lang": Value("string"),
    }
)

# Queries of a retrieval collection have no answers
QUERY_FEATURES = Features({"id": Value("string"), "question": Value("string")})

# A question whose relevant passages are known
JUDGED_QUESTION_FEATURES = Features({**QUESTION_FEATURES, "passage_ids": List(Value("string"))})

PARALLEL_FEATURES = Features({"source": Value("string"), "target": Value("string")})

TRIPLE_FEATURES = Features({"query": Value("string"), "positive": Value("string"), "negative": Value("string")})

# A row for `RetrieverCollator`; `teacher_scores`, of the positive and the negatives, may be null
RANKED_EXAMPLE_FEATURES = Features(
    {
        "query": Value("string"),
        "positive": dict(PASSAGE_FEATURES),
        "negatives": List(dict(PASSAGE_FEATURES)),
        "teacher_scores": List(Value("float64")),
    }
)

# The same as mining and scoring write it; `id`, `lang` and the teacher's columns may be null
DOCUMENT_FEATURES = Features({"title": Value("string"), "text": Value("string")})
TRAINING_ROW_FEATURES = Features(
    {
        "id": Value("string"),
        "lang": Value("string"),
        "query": Value("string"),
        "teacher_query": Value("string"),
        "positive": dict(DOCUMENT_FEATURES),
        "negatives": List(dict(DOCUMENT_FEATURES)),
        "teacher_scores": List(Value("float64")),
    }
)

# The retriever's `score` may be null, and so may `target`, for which readers then draw one of the `answers`
READER_EXAMPLE_FEATURES = Features(
    {
        "id": Value("string"),
        "question": Value("string"),
        "target": Value("string"),
        "answers": List(Value("string")),
        "lang": Value("string"),
        "ctxs": List({**PASSAGE_FEATURES, "score": Value("float64")}),
    }
)

# DPR's training examples (https://huggingface.co/papers/2004.04906): `positive_ctxs` hold the answer,
# `hard_negative_ctxs` come from BM25, and `negative_ctxs` are other questions' passages
RETRIEVAL_EXAMPLE_FEATURES = Features(
    {
        "id": Value("string"),
        "question": Value("string"),
        "answers": List(Value("string")),
        "lang": Value("string"),
        "positive_ctxs": List(dict(PASSAGE_FEATURES)),
        "hard_negative_ctxs": List(dict(PASSAGE_FEATURES)),
        "negative_ctxs": List(dict(PASSAGE_FEATURES)),
    }
)


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
]
