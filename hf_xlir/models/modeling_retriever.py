"""Base of the retriever models: an encoder, loading, and the output."""

import inspect
import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_retriever import RetrieverConfig


@dataclass
class RetrieverOutput(ModelOutput):
    r"""
    Embeddings of a batch of texts.

    Args:
        embeddings (`torch.FloatTensor`):
            One vector per token, of shape `(batch_size, sequence_length, embedding_dim)`, or one per text, of shape
            `(batch_size, embedding_dim)`.
        embedding_mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*):
            `True` for tokens whose vectors count. `None` for models with one vector per text.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            The encoder's layers, each of shape `(batch_size, sequence_length, hidden_size)`, if requested.
        attentions (`tuple(torch.FloatTensor)`, *optional*):
            The encoder's attention weights, if requested.
    """

    embeddings: torch.FloatTensor | None = None
    embedding_mask: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class RetrieverPreTrainedModel(PreTrainedModel):
    """Base model, which loads a retriever's folder or starts a new retriever from a bare encoder."""

    config_class = RetrieverConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    # The encoder raises an error for an implementation that it does not have
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Heads of pre-training or of a task, which a retriever does not use. ModernBERT's are `head` and `decoder`; a dual
    # encoder's own `head` is outside its encoder.
    _keys_to_ignore_on_load_unexpected = [
        *(r"pooler\.", r"lm_head\.", r"(^|\.)cls\.", r"vocab_\w+\.", r"pred_layer\.", r"position_ids$"),
        *(r"(^|\.)((discriminator|generator)_)?predictions\.", r"(pre_)?classifier\.", r"qa_outputs\."),
        r"^encoder\.(head|decoder)\.",
    ]
    # The losses average over the batch, so the Trainer must not rescale them by item counts
    accepts_loss_kwargs = False

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        config=None,
        key_mapping=None,
        output_loading_info=False,
        **kwargs,
    ):
        r"""
        Load a retriever, or start one from a bare encoder. In a new retriever only the projection is random, which
        transformers reports.

        Takes the arguments of [`~transformers.PreTrainedModel.from_pretrained`]. Keywords that are fields of the
        configuration override its values.

        Raises:
            ValueError: If the folder holds a model of another family or weights of another `embedding_dim`, or if
                weights of the encoder are missing.
            OSError: If the folder or repository does not exist.
        """
        hub_arguments = {
            name: kwargs[name]
            for name in ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
            if name in kwargs
        }
        source, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub_arguments)
        # Raises for another family, even if a configuration is given
        cls.config_class.get_config_dict(pretrained_model_name_or_path, **hub_arguments)
        if config is not None:
            kwargs["config"] = config
        is_own = source.get("model_type") == cls.config_class.model_type
        if is_own:
            saved = source.get("embedding_dim", cls.config_class.embedding_dim)
            _check_embedding_dim(pretrained_model_name_or_path, saved, config, kwargs)
        elif key_mapping is None:
            key_mapping = _bare_encoder_key_mapping(source.get("model_type"), cls.base_model_prefix)
        model, info = cls._load(
            pretrained_model_name_or_path,
            *model_args,
            saved=source if is_own else {},
            key_mapping=key_mapping,
            output_loading_info=True,
            **kwargs,
        )
        missing = [name for name in info["missing_keys"] if is_own or name.startswith(f"{cls.base_model_prefix}.")]
        if missing:
            raise ValueError(
                f"`{pretrained_model_name_or_path}` lacks {len(missing)} weights of its configuration, such as "
                f"{sorted(missing)[:3]}. Copy the folder again, or correct its `config.json`."
            )
        return (model, info) if output_loading_info else model

    @classmethod
    def _load(cls, pretrained_model_name_or_path, *model_args, saved, **kwargs):
        """The parent's `from_pretrained`. `saved` is a retriever's saved configuration, empty for a bare encoder."""
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def save_pretrained(self, save_directory, *, save_original_format=False, **kwargs):
        """Like the parent's, but a model that started from a bare encoder is saved under its own key names."""
        super().save_pretrained(save_directory, save_original_format=save_original_format, **kwargs)

    def encode(self, encoder, input_ids, attention_mask, **kwargs):
        """Run an encoder without the arguments that are `None`: some have no `token_type_ids`, such as DistilBERT."""
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        encoded = encoder(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        if kwargs.get("output_hidden_states") and not encoded.hidden_states:
            encoded.hidden_states = (encoded.last_hidden_state,)  # an encoder without layers returns none
        return encoded

    @staticmethod
    def attend_to_all(input_ids, inputs_embeds):
        """The default attention mask, of shape `(batch_size, sequence_length)`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(f"Give `input_ids` or `inputs_embeds`, got {'neither' if input_ids is None else 'both'}.")
        given = inputs_embeds if input_ids is None else input_ids
        return torch.ones(given.shape[:2], dtype=torch.long, device=given.device)

    @staticmethod
    def build_encoder(encoder_config):
        """A new encoder of any type from its configuration, without a pooler, which a retriever does not use."""
        # The projection has torch's default dtype, so the encoder must not have the dtype that it was saved with
        arguments = {"dtype": torch.get_default_dtype()}
        if "add_pooling_layer" in inspect.signature(MODEL_MAPPING[type(encoder_config)].__init__).parameters:
            arguments["add_pooling_layer"] = False
        return AutoModel.from_config(encoder_config, **arguments)


def check_positions(model):
    """A `ValueError` if the texts of a retriever may be longer than its encoder's learnt positions."""
    most = num_positions(model)
    for name in ("query_length", "document_length"):
        length = getattr(model.config, name)
        if most is not None and length > most:
            raise ValueError(
                f"`{name}` is {length} token ids, but the encoder has positions for {most}: set `{name}` to at most "
                f"{most}."
            )


def num_positions(model):
    """
    The most token ids of a text, or `None` if positions are not learnt. Some encoders, such as XLM-R, number positions
    from `padding_idx + 1` on.
    """
    return min(
        (
            module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
            for name, module in model.named_modules()
            if isinstance(module, nn.Embedding) and name.endswith("position_embeddings")
        ),
        default=None,
    )


def _bare_encoder_key_mapping(model_type, prefix):
    """Rename `bert.embeddings...` or `embeddings...` to `encoder.embeddings...`."""
    family_prefix = MODEL_MAPPING[CONFIG_MAPPING[model_type]].base_model_prefix
    optional_prefix = rf"(?:{re.escape(family_prefix)}\.)?" if family_prefix else ""
    return {rf"^{optional_prefix}(?=.)": f"{prefix}."}


def _check_embedding_dim(path, saved, config, kwargs):
    asked = kwargs.get("embedding_dim", getattr(config, "embedding_dim", saved))
    if asked != saved:
        raise ValueError(
            f"`{path}` holds weights for embedding_dim={saved}, got embedding_dim={asked}. "
            "Leave `embedding_dim` out, or train another size from the bare encoder."
        )


__all__ = ["RetrieverOutput", "RetrieverPreTrainedModel", "check_positions", "num_positions"]
