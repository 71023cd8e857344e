"""
What the models use of transformers, accelerate and torch beyond their documented interface, with the reason. Check a
new release of transformers against this file first.

- Argument `cache` (before transformers 5.24 `past_key_values`) of T5's attention, stack and model, and the same field
  of their outputs: always by the installed name, [`CACHE`]. The old name warns, and positions have changed.
- `T5Attention`, `T5LayerSelfAttention`, `T5Stack`: the base classes of `fid_attention.py` and `fid_encoder.py`, so
  that weights keep T5's names. Relied on are the projections `q`, `k`, `v` and `o`, `n_heads`, `key_value_proj_dim`,
  `layer_idx`, and the three results of `T5Attention.forward`.
- `decoder.block[i].layer[1].EncDecAttention`, in [`cross_attentions`]: cross-attention has no public accessor.
- `config._attn_implementation`, in [`attention_implementation`]: has no public reader.
- `_maybe_prepare_encoder_kwargs_for_generation`, in [`EncodesForGeneration`]: `generate` calls it to encode, and
  passages are packed between encoding and decoding. If it were no longer called, reading would be slower, with the
  same results.
- `_weight_conversions` of a model and `_original_source_patterns` of each, in [`forget_renamings`]: `save_pretrained`
  reverts the renamings of loading, but a released reader is saved under T5's names.
- `can_return_tuple`: gives `return_dict` the meaning that it has for T5.
- `_hf_hook` (accelerate's offloading), `_forward_hooks` and `_forward_pre_hooks` (torch), in [`is_plain`]: a product
  with the bare weight would skip them.
- `_supports_sdpa`, `_supports_flash_attn`, `_supports_flex_attn`, `_supports_attention_backend` and
  `_keys_to_ignore_on_load_unexpected`, class attributes of `RetrieverPreTrainedModel`: transformers' way to declare
  attention implementations and the weights that a checkpoint may have too many.
- `_auto_class`, in `hub_export`: there is no way to undo `register_for_auto_class`.

Private methods of `Trainer` that the trainers in `hf_xlir/training` override or call:

- `_save_checkpoint`, `_get_output_dir`: a checkpoint is written to a draft folder and renamed when it is complete.
- `_init_training_state`: how many epochs and batches to skip on resuming, which is corrected for streams.
- `_push_from_checkpoint`, `_finish_current_push`: uploads wait for complete checkpoints and carry code and card.
- `_save`: a repository gets the modelling code.
- `_prepare_inputs`: moves a batch to the device where `training_step` and `prediction_step` are replaced.
"""

import inspect

from torch import nn
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.utils.generic import can_return_tuple


# The name under which T5's modules take and return a cache: `past_key_values` was renamed in transformers 5.24
CACHE = "cache" if "cache" in inspect.signature(T5Attention.forward).parameters else "past_key_values"


def pop_cache(kwargs):
    """The cache in keyword arguments, under either name, and the arguments without it."""
    found = [kwargs[name] for name in ("cache", "past_key_values") if kwargs.get(name) is not None]
    rest = {name: value for name, value in kwargs.items() if name not in ("cache", "past_key_values")}
    return (found[0] if found else None), rest


def cross_attentions(decoder):
    """The cross-attention modules of a T5 decoder, by layer."""
    return [block.layer[1].EncDecAttention for block in decoder.block]


def attention_implementation(config):
    """The attention implementation in use, such as `"sdpa"`."""
    return config._attn_implementation


def is_plain(projection):
    """Whether a layer computes `weight @ x` only, its weight in memory: without LoRA, quantisation or offloading."""
    hooks = (*projection._forward_hooks, *projection._forward_pre_hooks)
    plain = type(projection) is nn.Linear and type(projection.weight) is nn.Parameter and projection.bias is None
    return plain and not hooks and not hasattr(projection, "_hf_hook") and not projection.weight.is_meta


def forget_renamings(model, patterns):
    """Let `save_pretrained` keep the names that `from_pretrained` gave by these `patterns` of a `key_mapping`."""
    kept = [
        each
        for each in getattr(model, "_weight_conversions", None) or []
        if not set(patterns) & set(each._original_source_patterns)
    ]
    model._weight_conversions = kept or None


class EncodesForGeneration:
    """Base of a model whose `generate` encodes by `encode_for_generation(inputs, model_kwargs, encode)`."""

    def _maybe_prepare_encoder_kwargs_for_generation(self, inputs_tensor, model_kwargs, *args, **kwargs):
        prepare = super()._maybe_prepare_encoder_kwargs_for_generation

        def encode(given):
            return prepare(inputs_tensor, given, *args, **kwargs)

        return self.encode_for_generation(inputs_tensor, model_kwargs, encode)


__all__ = [
    "CACHE",
    "EncodesForGeneration",
    "attention_implementation",
    "can_return_tuple",
    "cross_attentions",
    "forget_renamings",
    "is_plain",
    "pop_cache",
]
