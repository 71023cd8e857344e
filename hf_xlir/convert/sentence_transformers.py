"""Folders with a `modules.json`: sentence-transformers (one vector per text) and PyLate (one vector per token)."""

import string
from pathlib import Path
from typing import NamedTuple

import torch

from ..models.modeling_retriever import num_positions
from .checkpoints import build_retriever, load_tokenizer, load_transformer, read_json, read_weights


MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
# Pooling flags of the releases before 6.0, in the order in which their vectors are joined
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {"Identity": None, "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}  # torch's class names
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_ENDS = ([], ["LayerNorm"], ["Normalize"], ["LayerNorm", "Normalize"])
_LAYOUT = "`Transformer`, `Pooling`, then any `Dense`, a `LayerNorm` and a `Normalize`"
_SAMPLE = "a b"


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


def module_format(folder):
    """`"pylate"` or `"sentence-transformers"`."""
    kind = read_json(folder / SETTINGS, default={}).get("model_type", "SentenceTransformer")
    if kind == "ColBERT" or any(entry["type"].startswith("pylate.") for entry in read_json(folder / MODULES)):
        return "pylate"
    if kind != "SentenceTransformer":
        raise ValueError(f"`{folder}` has a `{kind}`; only a `SentenceTransformer` can be converted.")
    return "sentence-transformers"


def read_sentence_transformers(folder, tokenizer=None, **lengths):
    """
    A folder of sentence-transformers (https://www.sbert.net) as a dual encoder: a transformer, a pooling by the first
    token or the mean, then optional linear layers, LayerNorm and L2 norm.
    """
    modules, settings = _read_modules(folder), read_json(folder / SETTINGS, default={})
    by_kind = _by_kind(folder, modules)
    encoder, tokenizer = _read_transformer(modules[0], tokenizer)
    prompts = _prompts(settings)
    fields = {
        "pooling": _pooling(modules[1], any(prompts.values())),
        "normalize": "Normalize" in by_kind,
        **prompts,
        **_lengths(modules[0].config, tokenizer, encoder),
        **lengths,
    }
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    if "Dense" in by_kind:
        projection = read_projection(by_kind["Dense"])
        fields |= {"embedding_dim": len(projection.weight), "projection_activation": projection.activation}
        fields["projection_norm"] = "LayerNorm" in by_kind
        bias = projection.weight.new_zeros(len(projection.weight)) if projection.bias is None else projection.bias
        weights |= {"head.linear.weight": projection.weight, "head.linear.bias": bias}
        for module in by_kind.get("LayerNorm", []):
            norm = read_weights(module.folder)
            weights |= {f"head.LayerNorm.{name.removeprefix('norm.')}": value for name, value in norm.items()}
    notes = []
    similarity = settings.get("similarity_fn_name")
    if similarity not in (None, "dot") and not fields["normalize"]:
        notes.append(
            f"The model compares by {similarity!r}, but scores here are inner products. Set `normalize=True` in the "
            "configuration for cosines."
        )
    texts = settings.get("prompts") or {}
    others = sorted(set(texts) - {"query", *_DOCUMENT_PROMPTS})
    if any(texts[name] for name in others):
        notes.append(f"The prompts {others} are for tasks other than retrieval and are left out.")
    return build_retriever("biencoder", encoder.config, fields, weights, tokenizer, folder, notes)


def read_pylate(folder, tokenizer=None, **lengths):
    """
    A folder of PyLate (https://github.com/lightonai/pylate): a transformer, one or more linear layers, and the
    settings of `pylate.models.ColBERT`, or PyLate's defaults.
    """
    modules, settings = _read_modules(folder), read_json(folder / SETTINGS, default={})
    kinds = [module.kind for module in modules]
    if kinds[:1] != ["Transformer"] or set(kinds[1:]) - {"Dense"}:
        raise ValueError(f"`{folder}` must have a `Transformer` and `Dense` modules, got {kinds}.")
    if len(modules) == 1:
        raise ValueError(f"`{folder}` has no `Dense` module, so the projection is missing: PyLate would make one up.")
    projection = read_projection(modules[1:])
    if projection.activation is not None:
        raise ValueError(
            f"`{folder}` has a projection with {projection.activation!r}; only a linear one can be converted."
        )
    encoder, tokenizer = _read_transformer(modules[0], tokenizer)
    # PyLate saves tokenizers with the mask token as the padding token; the encoder knows its own
    pad_id = encoder.config.pad_token_id
    if tokenizer.pad_token_id == tokenizer.mask_token_id and pad_id not in (None, tokenizer.pad_token_id):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    expands = settings.get("do_query_expansion", True)
    if expands and tokenizer.mask_token_id is None:
        raise ValueError(f"`{folder}` expands queries, but its tokenizer has no `mask_token` to do it with.")
    texts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    prompt = texts.get(default) or ""
    # A word that is not a piece counts as the unknown token in PyLate, which is then skipped
    words = settings.get("skiplist_words")
    skip_ids = tokenizer.convert_tokens_to_ids(list(string.punctuation) if words is None else words)
    fields = {
        "embedding_dim": len(projection.weight),
        "projection_bias": projection.bias is not None,
        "query_length": settings.get("query_length", 32),
        "document_length": settings.get("document_length", 180),
        "query_expansion": "mask" if expands else "none",
        "attend_to_expansion": expands and settings.get("attend_to_expansion_tokens", False),
        "skip_punctuation": False,
        "skip_ids": sorted({each for each in skip_ids if each is not None}),
        "query_prompt": prompt,
        "document_prompt": prompt,
        **_markers(folder, settings, tokenizer),
        **lengths,
    }
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    weights |= {"linear.weight": projection.weight}
    weights |= {} if projection.bias is None else {"linear.bias": projection.bias}
    notes = []
    if len(modules) > 2:
        notes.append(f"{len(modules) - 1} linear layers in a row became one.")
    named = sorted(name for name, text in texts.items() if text and name != default)
    if named:
        notes.append(
            f"The prompts {named} are left out, because PyLate uses them only when they are named. To use them, set "
            "`query_prompt` and `document_prompt` in the configuration and the processor."
        )
    return build_retriever("colbert_xlmr", encoder.config, fields, weights, tokenizer, folder, notes)


def _markers(folder, settings, tokenizer):
    tokens = settings.get("query_prefix", "[Q] "), settings.get("document_prefix", "[D] ")
    if tokens == ("", ""):
        return {"use_markers": False}
    ids = [tokenizer.convert_tokens_to_ids(token) for token in tokens]
    for token, token_id in zip(tokens, ids, strict=True):
        if token == "":
            raise ValueError(f"`{folder}` has the markers {tokens}: both or neither can be converted.")
        if token_id in (None, tokenizer.unk_token_id):
            raise ValueError(f"`{folder}` has the marker {token!r}, which is not a piece of its tokenizer.")
    return dict(zip(("query_marker_id", "document_marker_id"), ids, strict=True))


def _read_modules(folder):
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


def _read_transformer(module, tokenizer):
    """The encoder and tokenizer of a `Transformer` module, or an error for settings without a counterpart."""
    encoder, tokenizer = load_transformer(module.folder), load_tokenizer(tokenizer or module.folder)
    config = module.config
    for name, usual in (("transformer_task", "feature-extraction"), ("processing_kwargs", {}), ("backend", "torch")):
        if config.get(name, usual) != usual:
            raise ValueError(f"`{module.folder}` has {name}={config[name]!r}; only {usual!r} can be converted.")
    if config.get("do_lower_case"):
        upper, lower = tokenizer(["Nile ABC", "nile abc"])["input_ids"]
        if upper != lower:
            raise ValueError(
                f"`{module.folder}` has do_lower_case=True with a tokenizer that keeps upper case: save it with a "
                "tokenizer that lower-cases."
            )
    for name in ("padding_side", "truncation_side"):
        if getattr(tokenizer, name) != "right":
            raise ValueError(f"The tokenizer of `{module.folder}` has {name}='left', which is for decoders.")
    pieces = tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"]
    framed = tokenizer(_SAMPLE)["input_ids"]
    if framed != [tokenizer.cls_token_id, *pieces, tokenizer.sep_token_id]:
        raise ValueError(
            f"The tokenizer of `{module.folder}` must put its `cls_token` before a text and its `sep_token` after it, "
            f"got {tokenizer.convert_ids_to_tokens(framed)}."
        )
    return encoder, tokenizer


def read_projection(modules):
    """
    One [`Projection`] for a chain of `Dense` modules, in the precision of the last one: linear layers in a row are one
    linear layer. A function that is not linear may only come last.
    """
    weight = bias = activation = dtype = None
    for module in modules:
        if activation is not None:
            raise ValueError(f"`{module.folder}` follows {activation!r}, which only the last layer may have.")
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
    if named not in _ACTIVATIONS:
        raise ValueError(
            f"`{module.folder}` has activation_function={config['activation_function']!r}, expected one of "
            f"{sorted(_ACTIVATIONS)}."
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
        if _ACTIVATIONS[named] is not None:
            raise ValueError(f"`{module.folder}` has use_residual=True with {named!r}, which cannot be converted.")
        weight = weight + (
            weights["residual.weight"].double() if "residual.weight" in weights else torch.eye(len(weight)).double()
        )
    bias = weights["linear.bias"].double() if "linear.bias" in names else None
    return weight, bias, _ACTIVATIONS[named], dtype


def _by_kind(folder, modules):
    """Modules by kind, for the layouts that a dual encoder has. `Dropout` does nothing at inference."""
    kinds = [module.kind for module in modules if module.kind != "Dropout"]
    rest = [*kinds[2:]]
    while rest and rest[0] == "Dense":
        rest.pop(0)
    if kinds[:2] != ["Transformer", "Pooling"] or rest not in _ENDS:
        raise ValueError(f"`{folder}` has the modules {kinds}, expected {_LAYOUT}.")
    if "LayerNorm" in rest and "Dense" not in kinds:
        raise ValueError(f"`{folder}` has a `LayerNorm` without a `Dense`, which has no counterpart here.")
    by_kind = {}
    for module in modules:
        for name in ("module_input_name", "module_output_name") if module.kind in ("Dense", "Normalize") else ():
            if module.config.get(name) not in (None, "sentence_embedding"):
                raise ValueError(
                    f"`{module.folder}` has {name}={module.config[name]!r}, expected 'sentence_embedding'."
                )
        by_kind.setdefault(module.kind, []).append(module)
    return by_kind


def _pooling(module, has_prompts):
    config = module.config
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if modes not in (["cls"], ["mean"]):
        raise ValueError(f"`{module.folder}` pools by {modes}, expected 'cls' or 'mean'.")
    if has_prompts and not config.get("include_prompt", True):
        raise ValueError(f"`{module.folder}` leaves prompts out of the pooling, which has no counterpart here.")
    return modes[0]


def _prompts(settings):
    """The prompts that `encode_query` and `encode_document` choose."""
    prompts = settings.get("prompts") or {}
    default = prompts.get(settings.get("default_prompt_name")) or ""
    document = next((prompts[name] for name in _DOCUMENT_PROMPTS if name in prompts), default)
    return {"query_prompt": prompts.get("query", default) or "", "document_prompt": document or ""}


def _lengths(config, tokenizer, encoder):
    """One length for all texts unless the folder has one per kind, at most the number of the encoder's positions."""
    most = num_positions(encoder)
    longest = config.get("max_seq_length") or tokenizer.model_max_length
    lengths = {name: config.get(name) or longest for name in ("query_length", "document_length")}
    return {name: length if most is None else min(length, most) for name, length in lengths.items()}


__all__ = [
    "MODULES",
    "POOLING_FLAGS",
    "SETTINGS",
    "Module",
    "Projection",
    "module_format",
    "read_projection",
    "read_pylate",
    "read_sentence_transformers",
]
