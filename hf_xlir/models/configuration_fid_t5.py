"""Configuration of the Fusion-in-Decoder reader."""

import difflib
from dataclasses import fields

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, T5Config


BACKBONE_MODEL_TYPES = ("t5", "mt5", "umt5")


@strict
class FiDT5Config(T5Config):
    r"""
    Configuration of [`FiDT5ForConditionalGeneration`] (Fusion-in-Decoder, https://huggingface.co/papers/2007.01282).

    The fields of [`~transformers.T5Config`] and the following. [`FiDT5Processor`] has the settings that build inputs
    (lengths, number of passages): weights do not depend on them, and a reader can read more passages than in training
    (section 4 of the paper).

    Args:
        backbone_model_type (`str`, *optional*, defaults to `"t5"`):
            The model whose weights the reader has: `"t5"` (also T5 1.1 and Flan-T5), `"mt5"` or `"umt5"`. Two things
            differ: mT5 never scales the decoder's output, and umT5 has relative position biases in every layer, the
            others in the first only. This field sets no sizes; use [`FiDT5Config.from_backbone`] for them.
        scale_decoder_outputs (`bool`, *optional*):
            Whether the decoder's output is multiplied by `d_model ** -0.5` before the vocabulary projection. Defaults
            to the backbone's value: `False` for mT5 and for T5 with `tie_word_embeddings=False` (T5 1.1), otherwise
            `True`.
        decoder_start_token_id (`int`, *optional*):
            First input of the decoder. Defaults to `pad_token_id`, as in all released T5 models.

    Raises:
        ValueError: If `backbone_model_type` has another value, or a keyword is a misspelt field.

    Example:
    ```python
    >>> from hf_xlir import FiDT5Config, FiDT5ForConditionalGeneration

    >>> config = FiDT5Config(vocab_size=100, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    >>> model = FiDT5ForConditionalGeneration(config)
    >>> model.config.backbone_model_type
    't5'

    ```
    """

    model_type = "fid_t5"

    backbone_model_type: str = "t5"
    scale_decoder_outputs: bool | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs):
        known = {field.name for field in fields(self)}
        for name in kwargs.keys() - self.attribute_map.keys():
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
            if close and not name.endswith("_token_id"):  # `bos_token_id` is not `eos_token_id` misspelt
                raise ValueError(f"`FiDT5Config` has no field `{name}`. Did you mean `{close[0]}`?")
        if self.backbone_model_type not in BACKBONE_MODEL_TYPES:
            raise ValueError(
                f"`backbone_model_type` must be one of {BACKBONE_MODEL_TYPES}, got {self.backbone_model_type!r}."
            )

        scale_decoder_outputs = self.scale_decoder_outputs
        super().__post_init__(**kwargs)  # derives `scale_decoder_outputs` from `tie_word_embeddings`
        if scale_decoder_outputs is not None:
            self.scale_decoder_outputs = scale_decoder_outputs
        elif self.backbone_model_type != "t5":
            self.scale_decoder_outputs = self.backbone_model_type == "umt5"
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id

    @classmethod
    def from_backbone(cls, config, **kwargs):
        """
        The configuration of a reader with the weights of a T5, mT5 or umT5 model. Keywords are fields to change.

        Raises:
            ValueError: If `config` is of another type.
        """
        _check_backbone(config.model_type, "The configuration")
        values = config.to_dict()
        for name in ("model_type", "architectures", "auto_map", "transformers_version"):
            values.pop(name, None)
        return cls(**{**values, "backbone_model_type": config.model_type, **kwargs})

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """
        Like the parent's, but a T5, mT5 or umT5 checkpoint's configuration becomes a reader's. The readers that the
        FiD repository released are such checkpoints.

        Raises:
            ValueError: If the folder holds a model of another type.
        """
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = config_dict.get("model_type")
        if model_type != cls.model_type:
            _check_backbone(model_type, f"`{pretrained_model_name_or_path}`")
            config_dict = cls.from_backbone(CONFIG_MAPPING[model_type](**config_dict)).to_dict()
        return config_dict, kwargs


def _check_backbone(model_type, what):
    if model_type not in BACKBONE_MODEL_TYPES:
        raise ValueError(
            f"{what} is of type {model_type!r}, but a Fusion-in-Decoder reader needs type 'fid_t5' or one of "
            f"{BACKBONE_MODEL_TYPES}. `AutoModel.from_pretrained` picks the class that fits a folder."
        )


__all__ = ["FiDT5Config"]
