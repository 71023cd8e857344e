"""What the two retriever families' configurations share."""

import difflib
from dataclasses import fields

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


HF_XLIR_MODEL_TYPES = ("colbert_xlmr", "biencoder", "fid_t5")


@strict
class RetrieverConfig(PreTrainedConfig):
    r"""
    Base configuration of a text encoder that turns queries and documents into embeddings.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the transformer encoder, any family that `AutoModel` builds. Defaults to XLM-R base.
        query_length (`int`, *optional*, defaults to 32):
            Length of a query in token ids, special tokens included.
        document_length (`int`, *optional*, defaults to 180):
            Most token ids a document keeps, special tokens included.

    Raises:
        ValueError: If a length is too small, or a keyword is a misspelt field.
    """

    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="xlm-roberta")}

    encoder_config: dict | PreTrainedConfig | None = None
    query_length: int = 32
    document_length: int = 180

    def __post_init__(self, **kwargs):
        known = {field.name for field in fields(self)}
        for name in kwargs:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if close:
                raise ValueError(f"`{type(self).__name__}` has no field `{name}`. Did you mean `{close[0]}`?")
        super().__post_init__(**kwargs)

    def validate_lengths(self):
        """Called by the strict dataclass: both lengths must leave room for one piece beside the special tokens."""
        for name in ("query_length", "document_length"):
            if getattr(self, name) < 4:
                raise ValueError(f"`{name}` must be at least 4 token ids, got {getattr(self, name)}.")

    def get_text_config(self, decoder=None, encoder=None):
        """The encoder's configuration: vocabulary size, hidden size, number of layers."""
        return self.encoder_config

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """
        Like the parent's, but a folder of a bare encoder (BERT, XLM-R, DistilBERT ...) becomes the `encoder_config` of
        a new retriever.

        Raises:
            ValueError: If the folder holds a model of another family.
        """
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        source = config_dict.get("model_type")
        if source is None or source == cls.model_type:
            return config_dict, kwargs
        if source in HF_XLIR_MODEL_TYPES or config_dict.get("is_encoder_decoder"):
            raise ValueError(
                f"`{pretrained_model_name_or_path}` holds a model of type `{source}`, but `{cls.__name__}` needs a "
                f"`{cls.model_type}` model or a bare encoder such as XLM-R, BERT or DistilBERT. "
                "`AutoModel.from_pretrained` picks the class that fits a folder."
            )
        for key in ("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"):
            config_dict.pop(key, None)
        return {"model_type": cls.model_type, "encoder_config": config_dict}, kwargs


__all__ = ["RetrieverConfig"]
