"""Cross-lingual retrieval and open-domain question answering for Hugging Face users."""

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
from .utils.lazy import lazy_exports


__version__ = "0.1.0"

# Imported at first use: a user who only loads a model needs neither accelerate nor datasets
_LAZY = {
    "RetrieverTrainer": ".training",
    "RetrieverTrainingArguments": ".training",
    "load_encoder": ".index",
}

__getattr__, __dir__, _ = lazy_exports(__name__, _LAZY)

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
    "load_encoder",
    "register_for_hub_export",
]
