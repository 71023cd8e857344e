"""Base configuration of the retriever families."""

import difflib
from dataclasses import fields

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


# XLM-R base's values that differ from the defaults of `XLMRobertaConfig`, which are BERT's
XLMR_BASE = {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}

# Keywords of transformers that are not fields
OTHER_KEYWORDS = (
    *("model_type", "name_or_path", "num_labels", "torch_dtype"),
    *("attn_implementation", "experts_implementation", "output_attentions"),
)


@strict
class RetrieverConfig(PreTrainedConfig):
    r"""
    Base configuration of the models that turn queries and documents into embeddings.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*):
            The encoder, of any type that `AutoModel` builds. Defaults to XLM-R base.
        embedding_dim (`int`, *optional*):
            Size of an embedding. `None`, the default, is the encoder's hidden size.
        query_length (`int`, *optional*, defaults to 32):
            Length of a query in token ids, special tokens included.
        document_length (`int`, *optional*, defaults to 180):
            Most token ids of a document, special tokens included.
        query_prompt, document_prompt (`str`, *optional*, defaults to `""`):
            Text before every query or document, for models trained with one (`"query: "`).

    Raises:
        ValueError: If a size is too small, or a keyword is not a field.
        StrictDataclassError: If a field has the wrong type or a value that is not listed for it. This error of
            huggingface_hub is not a `ValueError`.
    """

    sub_configs_defaults = {
        "encoder_config": SubConfigSpec(AutoConfig, model_type="xlm-roberta", init_kwargs=XLMR_BASE)
    }

    encoder_config: dict | PreTrainedConfig | None = None
    embedding_dim: int | None = None
    query_length: int = 32
    document_length: int = 180
    query_prompt: str = ""
    document_prompt: str = ""

    def __post_init__(self, **kwargs):
        known = {field.name for field in fields(self)}
        for name in kwargs.keys() - set(OTHER_KEYWORDS):
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            # A saved file names the transformers that wrote it, and may have fields of a later release
            if close or self.transformers_version is None:
                own = sorted(known - {field.name for field in fields(PreTrainedConfig)})
                hint = f"Did you mean `{close[0]}`?" if close else f"Expected one of {own}."
                raise ValueError(f"`{type(self).__name__}` has no field `{name}`. {hint}")
        super().__post_init__(**kwargs)
        # The strict dataclass also calls it, but raises an error that is not a `ValueError`
        self.validate_sizes()

    def validate_sizes(self):
        """Called by the strict dataclass: both lengths must leave room for a piece besides the special tokens."""
        for name in ("query_length", "document_length"):
            if getattr(self, name) < 4:
                raise ValueError(f"`{name}` must be at least 4 token ids, got {getattr(self, name)}.")
        if self.embedding_dim is not None and self.embedding_dim < 1:
            raise ValueError(f"`embedding_dim` must be at least 1, got {self.embedding_dim}.")

    def get_text_config(self, decoder=None, encoder=None):
        """The encoder's configuration: vocabulary size, hidden size, number of layers."""
        return self.encoder_config

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """
        Like the parent's, but the configuration of a bare encoder (BERT, XLM-R, DistilBERT ...) becomes the
        `encoder_config` of a new retriever.

        Raises:
            ValueError: If the folder holds a model of another family, or of a type that transformers does not know.
        """
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        source = config_dict.get("model_type")
        if source == cls.model_type:
            return config_dict, kwargs
        if source not in CONFIG_MAPPING:
            found = "no `config.json` with a `model_type`" if source is None else f"a model of unknown type `{source}`"
            raise ValueError(
                f"`{pretrained_model_name_or_path}` has {found}. `{cls.__name__}` needs a folder or repository of a "
                f"`{cls.model_type}` model, or of a bare encoder that transformers has, such as XLM-R or BERT."
            )
        if not _is_bare_encoder(CONFIG_MAPPING[source]) or config_dict.get("is_encoder_decoder"):
            raise ValueError(
                f"`{pretrained_model_name_or_path}` holds a model of type `{source}`, but `{cls.__name__}` needs a "
                f"`{cls.model_type}` model or a bare encoder such as XLM-R, BERT or DistilBERT. "
                "`AutoModel.from_pretrained` picks the class that fits a folder."
            )
        for key in ("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"):
            config_dict.pop(key, None)
        return {"model_type": cls.model_type, "encoder_config": config_dict}, kwargs


def _is_bare_encoder(config_class):
    """Whether models of this type are encoders: not retrievers, encoder-decoders, or systems without a model."""
    return (
        config_class in MODEL_MAPPING
        and "encoder_config" not in config_class.sub_configs_defaults
        and not getattr(config_class, "is_encoder_decoder", False)
    )


__all__ = ["RetrieverConfig"]
