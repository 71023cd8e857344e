"""
From a question to passages and answers. `transformers.pipeline` knows both tasks once hf_xlir is imported.

What is imported here imports neither datasets nor FAISS, which `import hf_xlir` should not wait for.
"""

import importlib

from transformers.pipelines import PIPELINE_REGISTRY

from .question_answering import QuestionAnsweringPipeline
from .retrieval import RetrievalPipeline
from .system_loader import SystemLoader


_LAZY = {"Retriever": ".retriever"}

for pipeline_class in (RetrievalPipeline, QuestionAnsweringPipeline):
    PIPELINE_REGISTRY.register_pipeline(
        pipeline_class.default_task, pipeline_class=pipeline_class, pt_model=SystemLoader, type="text"
    )


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY])


__all__ = ["QuestionAnsweringPipeline", "RetrievalPipeline", "Retriever"]
