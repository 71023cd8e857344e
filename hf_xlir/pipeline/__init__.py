"""
From a question to passages and answers. `import hf_xlir` registers both tasks with `transformers.pipeline`.

Modules imported here import neither datasets nor FAISS: `import hf_xlir` stays fast.
"""

from transformers import AutoConfig
from transformers.pipelines import PIPELINE_REGISTRY

from ..utils.lazy import lazy_exports
from .configuration_system import RetrievalSystemConfig
from .question_answering import QuestionAnsweringPipeline
from .retrieval import RetrievalPipeline, SystemLoader


_LAZY = {"Retriever": ".retriever"}

AutoConfig.register(RetrievalSystemConfig.model_type, RetrievalSystemConfig, exist_ok=True)
for pipeline_class in (RetrievalPipeline, QuestionAnsweringPipeline):
    PIPELINE_REGISTRY.register_pipeline(
        pipeline_class.default_task, pipeline_class=pipeline_class, pt_model=SystemLoader, type="text"
    )


__getattr__, __dir__, __all__ = lazy_exports(__name__, _LAZY)
__all__ += ["QuestionAnsweringPipeline", "RetrievalPipeline"]
