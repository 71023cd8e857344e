"""Registration with the Auto classes: the only place that registers anything."""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor

from .configuration_biencoder import BiEncoderConfig
from .configuration_colbert_xlmr import ColBERTXLMRConfig
from .configuration_fid_t5 import FiDT5Config
from .modeling_biencoder import BiEncoderModel
from .modeling_colbert_xlmr import ColBERTXLMRModel
from .modeling_fid_t5 import FiDT5ForConditionalGeneration
from .processing_biencoder import BiEncoderProcessor
from .processing_colbert_xlmr import ColBERTXLMRProcessor
from .processing_fid_t5 import FiDT5Processor


FAMILIES = (
    (ColBERTXLMRConfig, ColBERTXLMRModel, ColBERTXLMRProcessor, AutoModel),
    (BiEncoderConfig, BiEncoderModel, BiEncoderProcessor, AutoModel),
    (FiDT5Config, FiDT5ForConditionalGeneration, FiDT5Processor, AutoModelForSeq2SeqLM),
)

for config_class, model_class, processor_class, auto_model in FAMILIES:
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    auto_model.register(config_class, model_class, exist_ok=True)
    AutoProcessor.register(config_class, processor_class, exist_ok=True)
AutoModel.register(FiDT5Config, FiDT5ForConditionalGeneration, exist_ok=True)


def register_for_hub_export():
    """
    Let `save_pretrained` write the modelling code beside the weights.

    After this call a saved folder, or a repository it is pushed to, loads with `trust_remote_code=True` where this
    package is not installed. Without it a folder needs the package.

    Example:
    ```python
    >>> from hf_xlir import register_for_hub_export

    >>> register_for_hub_export()

    ```
    """
    for config_class, model_class, processor_class, auto_model in FAMILIES:
        config_class.register_for_auto_class()
        model_class.register_for_auto_class(auto_model.__name__)
        processor_class.register_for_auto_class()


__all__ = ["register_for_hub_export"]
