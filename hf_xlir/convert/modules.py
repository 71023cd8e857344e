"""What the folders of sentence-transformers and PyLate have in common: a list of modules, and linear layers."""

from pathlib import Path
from typing import NamedTuple

import torch

from .files import read_json, read_weights


MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
# Names of torch's classes, without their module
ACTIVATIONS = {"Identity": None, "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}
SAMPLE = "a b"


class Module(NamedTuple):
    """One entry of `modules.json`: its class without the Python module, its folder, and its configuration."""

    kind: str
    folder: Path
    config: dict


class Projection(NamedTuple):
    """`activation(weight @ x + bias)`, with a weight of shape `(out, in)`; `bias` and `activation` may be `None`."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: str | None


def read_modules(folder):
    """The modules of a folder, in order."""
    modules = []
    for entry in sorted(read_json(folder / MODULES), key=lambda entry: entry["idx"]):
        kind, path = entry["type"].rpartition(".")[2], folder / entry["path"]
        if kind == "Transformer":
            files = sorted(path.glob("sentence_*_config.json"))
            config = read_json(files[0]) if files else {}
        else:
            config = read_json(path / "config.json", default={})
        modules.append(Module(kind, path, config))
    return modules


def read_settings(folder):
    """Prompts and other settings of the whole."""
    return read_json(folder / SETTINGS, default={})


def check_transformer(module, tokenizer):
    """
    Raise for settings of a `Transformer` module that no processor here has.

    Raises:
        ValueError: If texts are lower-cased before a tokenizer that would not, or the tokenizer is called with other
            settings than usual.
    """
    config = module.config
    for name, usual in (("transformer_task", "feature-extraction"), ("processing_kwargs", {}), ("backend", "torch")):
        if config.get(name, usual) != usual:
            raise ValueError(f"`{module.folder}` has {name}={config[name]!r}, which cannot be converted.")
    if config.get("do_lower_case"):
        upper, lower = tokenizer(["Nile ABC", "nile abc"])["input_ids"]
        if upper != lower:
            raise ValueError(
                f"`{module.folder}` has do_lower_case=True beside a tokenizer that keeps upper case. Save it with a "
                "tokenizer that lower-cases by itself."
            )
    for name in ("padding_side", "truncation_side"):
        if getattr(tokenizer, name) != "right":
            raise ValueError(f"The tokenizer of `{module.folder}` has {name}='left', which is for decoders.")
    pieces = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
    if tokenizer(SAMPLE)["input_ids"] != [tokenizer.cls_token_id, *pieces, tokenizer.sep_token_id]:
        raise ValueError(
            f"The tokenizer of `{module.folder}` must put its `cls_token` in front of a text and its `sep_token` "
            f"behind, got {tokenizer.convert_ids_to_tokens(tokenizer(SAMPLE)['input_ids'])}."
        )


def read_projection(modules):
    r"""
    One projection for a chain of `Dense` modules: linear layers in a row are one linear layer.

    Args:
        modules (`list[Module]`):
            At least one `Dense`, first to last.

    Returns:
        [`Projection`] in the precision of the last one's weights.

    Raises:
        ValueError: If a function that is not linear stands before the end, or is none of those of
            [`BiEncoderConfig`]'s `projection_activation`; or weights are missing.
    """
    weight = bias = activation = dtype = None
    for module in modules:
        if activation is not None:
            raise ValueError(f"`{module.folder}` follows {activation!r}: layers after such a function have no place.")
        layer_weight, layer_bias, activation, dtype = _read_dense(module)
        weight = layer_weight if weight is None else layer_weight @ weight
        biases = [] if bias is None else [layer_weight @ bias]
        biases += [] if layer_bias is None else [layer_bias]
        bias = sum(biases) if biases else None
    return Projection(weight.to(dtype), None if bias is None else bias.to(dtype), activation)


def _read_dense(module):
    """Weight and bias in float64, activation, and the weights' own precision."""
    weights, config = read_weights(module.folder), module.config
    named = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if named not in ACTIVATIONS:
        raise ValueError(
            f"`{module.folder}` has activation_function={config['activation_function']!r}; what can be converted is "
            f"one of {sorted(ACTIVATIONS)}."
        )
    names = {"linear.weight"} | ({"linear.bias"} if config.get("bias", True) else set())
    residual = config.get("use_residual", False)
    if residual and config["in_features"] != config["out_features"]:
        names.add("residual.weight")
    if names != weights.keys():
        raise ValueError(f"`{module.folder}` must have the weights {sorted(names)}, got {sorted(weights)}.")
    weight, dtype = weights["linear.weight"].double(), weights["linear.weight"].dtype
    if tuple(weight.shape) != (config["out_features"], config["in_features"]):
        raise ValueError(
            f"`{module.folder}` says {config['in_features']} to {config['out_features']} features, but its weight has "
            f"shape {tuple(weight.shape)}."
        )
    if residual:
        if ACTIVATIONS[named] is not None:
            raise ValueError(f"`{module.folder}` has use_residual=True around {named!r}, which has no place.")
        weight = weight + (
            weights["residual.weight"].double() if "residual.weight" in weights else torch.eye(len(weight)).double()
        )
    bias = weights["linear.bias"].double() if "linear.bias" in names else None
    return weight, bias, ACTIVATIONS[named], dtype


__all__ = [
    "Module",
    "Projection",
    "check_transformer",
    "read_modules",
    "read_projection",
    "read_settings",
]
