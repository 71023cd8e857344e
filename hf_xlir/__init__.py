"""Cross-lingual retrieval and open-domain question answering for Hugging Face users."""

import importlib

from .models.auto import register_for_hub_export
from .models.configuration_biencoder import BiEncoderConfig
from .models.configuration_colbert_xlmr import ColBERTXLMRConfig
from .models.configuration_fid_t5 import FiDT5Config
from .models.modeling_biencoder import BiEncoderModel
from .models.modeling_colbert_xlmr import ColBERTXLMRModel
from .models.modeling_fid_t5 import FiDT5ForConditionalGeneration
from .models.processing_biencoder import BiEncoderProcessor
from .models.processing_colbert_xlmr import ColBERTXLMRProcessor
from .models.processing_fid_t5 import FiDT5Processor
from .pipeline import QuestionAnsweringPipeline, RetrievalPipeline


__version__ = "0.1.0"

# Training pulls in accelerate and datasets, which those who only load a model should not wait for.
_LAZY = {"RetrieverTrainer": ".training.trainer", "RetrieverTrainingArguments": ".training.training_args"}


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY])


__all__ = [
    "BiEncoderConfig",
    "BiEncoderModel",
    "BiEncoderProcessor",
    "ColBERTXLMRConfig",
    "ColBERTXLMRModel",
    "ColBERTXLMRProcessor",
    "FiDT5Config",
    "FiDT5ForConditionalGeneration",
    "FiDT5Processor",
    "QuestionAnsweringPipeline",
    "RetrievalPipeline",
    "RetrieverTrainer",
    "RetrieverTrainingArguments",
    "register_for_hub_export",
]
