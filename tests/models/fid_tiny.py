"""Tiny models, inputs and a tokenizer for the Fusion-in-Decoder tests, all made on the spot."""

import json
import re

import torch
from safetensors.torch import save_file
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
    UMT5Config,
    UMT5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from hf_xlir.models.configuration_fid_t5 import FiDT5Config
from hf_xlir.models.modeling_fid_t5 import FiDT5ForConditionalGeneration
from hf_xlir.models.transformers_private import CACHE


SIZES = {
    "vocab_size": 67,
    "d_model": 24,
    "d_kv": 5,  # 4 heads of 5: not d_model
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
}
BACKBONES = {
    "t5": (T5Config, T5ForConditionalGeneration, {}),
    "t5-1.1": (
        T5Config,
        T5ForConditionalGeneration,
        {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": (MT5Config, MT5ForConditionalGeneration, {}),
    "umt5": (UMT5Config, UMT5ForConditionalGeneration, {}),
}


def make_backbone(name="t5", seed=0, **fields):
    """A plain transformers model in evaluation mode, every weight random, which writes varied tokens."""
    config_class, model_class, own = BACKBONES[name]
    torch.manual_seed(seed)
    model = model_class(config_class(**{**SIZES, **own, **fields}))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
            if "decoder.final_layer_norm" in parameter_name:  # else each token predicts itself: embeddings are tied
                parameter.normal_()
    return model.eval()


def make_inputs(lengths, length=None, seed=1, vocab_size=SIZES["vocab_size"]):
    """
    Random passages of the given lengths: `lengths[i][j]` tokens in passage j of question i, 0 for an absent one.

    Returns `input_ids` and `attention_mask` of shape `(batch, num_passages, length)`, padded with 0 on the right.
    """
    generator = torch.Generator().manual_seed(seed)
    length = length or max(max(of_question) for of_question in lengths)
    input_ids = torch.zeros(len(lengths), max(map(len, lengths)), length, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for i, of_question in enumerate(lengths):
        for j, count in enumerate(of_question):
            input_ids[i, j, :count] = torch.randint(3, vocab_size, (count,), generator=generator)
            attention_mask[i, j, :count] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def cache_of(output):
    """The cache of an output, by the name that the installed transformers has."""
    return output[CACHE]


def checkpoint_activations(model):
    """Switch activation checkpointing on, by the name that the installed transformers has."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def make_tokenizer():
    """A T5 tokenizer with a few words; every printable ASCII character is a piece, so nothing is unknown."""
    words = ["▁question:", "▁title:", "▁context:", "▁capital", "▁Seoul", "▁the", "▁rain", "ing", "ed", "er", "▁"]
    characters = [chr(code) for code in range(33, 127)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(word, -2.0) for word in words] + [(character, -4.0) for character in characters]
    return T5Tokenizer(vocab=vocab, extra_ids=2)


def make_reader(backbone):
    """A reader with the weights of a plain model, in evaluation mode and of its dtype."""
    reader = FiDT5ForConditionalGeneration(FiDT5Config.from_backbone(backbone.config)).to(backbone.dtype)
    reader.load_state_dict(backbone.state_dict())
    return reader.eval()


def read_separately(backbone, inputs, question):
    """What a plain model's decoder sees: the states of one question's passages, encoded one by one, unpadded."""
    states = []
    for ids, mask in zip(inputs["input_ids"][question], inputs["attention_mask"][question], strict=True):
        if mask.any():
            states.append(backbone.encoder(input_ids=ids[mask.bool()][None]).last_hidden_state)
    return BaseModelOutput(last_hidden_state=torch.cat(states, dim=1))


def write_released(backbone, folder, as_safetensors=False):
    """Write a plain model as the FiD repository would have: wrapped names, old configuration, one key too many."""
    weights = {}
    for name, weight in backbone.state_dict().items():
        name = re.sub(r"^encoder\.block\.(\d+)\.", r"encoder.block.\1.module.", name)
        weights[re.sub(r"^encoder\.", "encoder.encoder.", name)] = weight.clone()
    extra = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    weights[extra] = torch.randn(backbone.config.relative_attention_num_buckets, backbone.config.num_heads)
    if as_safetensors:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    config = {**SIZES, "model_type": "t5", "architectures": ["FiDT5"], "n_positions": 512, "output_past": True}
    config |= {"pad_token_id": 0, "eos_token_id": 1, "is_encoder_decoder": True, "feed_forward_proj": "relu"}
    (folder / "config.json").write_text(json.dumps(config))
