"""sentence-transformers' folders: one vector a text."""

from ..models.configuration_biencoder import BiEncoderConfig
from ..models.modeling_biencoder import BiEncoderModel
from ..models.modeling_retriever import num_positions
from ..models.processing_biencoder import BiEncoderProcessor
from .files import (
    Checkpoint,
    encoder_fields,
    fill,
    load_encoder,
    load_tokenizer,
    make_processor,
    read_weights,
)
from .modules import check_transformer, read_modules, read_projection, read_settings


# Flags of the releases before 6.0, in the order in which the vectors are joined
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ENDS = ([], ["LayerNorm"], ["Normalize"], ["LayerNorm", "Normalize"])
LAYOUT = "`Transformer`, `Pooling`, then any `Dense`, a `LayerNorm` and a `Normalize`"


def read_sentence_transformers(folder, tokenizer=None, **lengths):
    r"""
    A folder of sentence-transformers (https://www.sbert.net): a transformer, a pooling by the first token or the mean,
    and then perhaps linear layers, LayerNorm and L2 norm. Prompts become those of queries and documents.

    Args:
        folder (`Path`):
            The folder.
        tokenizer (`str`, *optional*):
            Where the tokenizer is, if not in the folder.
        lengths:
            `query_length`, `document_length`, in place of those of the checkpoint.

    Returns:
        [`Checkpoint`] of a [`BiEncoderModel`] with one tower.

    Raises:
        ValueError: If a module or setting has no counterpart, or a weight is missing.
    """
    modules, settings = read_modules(folder), read_settings(folder)
    by_kind = _by_kind(folder, modules)
    transformer = modules[0]
    encoder = load_encoder(transformer.folder)
    tokenizer = load_tokenizer(tokenizer or transformer.folder)
    check_transformer(transformer, tokenizer)
    prompts = _prompts(settings)
    fields = {
        "pooling": _pooling(modules[1], any(prompts.values())),
        "normalize": "Normalize" in by_kind,
        **prompts,
        **_lengths(transformer.config, tokenizer, encoder),
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
    model = BiEncoderModel(BiEncoderConfig(encoder_config=encoder_fields(encoder.config), **fields))
    fill(model, weights, folder)
    return Checkpoint(model, make_processor(BiEncoderProcessor, tokenizer, model.config), _notes(settings, fields))


def _by_kind(folder, modules):
    """Modules by their kind; `Dropout` does nothing at inference."""
    kinds = [module.kind for module in modules if module.kind != "Dropout"]
    rest = [*kinds[2:]]
    while rest and rest[0] == "Dense":
        rest.pop(0)
    if kinds[:2] != ["Transformer", "Pooling"] or rest not in ENDS:
        raise ValueError(f"`{folder}` has the modules {kinds}. What can be converted is {LAYOUT}.")
    if "LayerNorm" in rest and "Dense" not in kinds:
        raise ValueError(f"`{folder}` has a `LayerNorm` without a `Dense`, which has no counterpart.")
    by_kind = {}
    for module in modules:
        for name in ("module_input_name", "module_output_name") if module.kind in ("Dense", "Normalize") else ():
            if module.config.get(name) not in (None, "sentence_embedding"):
                raise ValueError(f"`{module.folder}` has {name}={module.config[name]!r}: it is not for whole texts.")
        by_kind.setdefault(module.kind, []).append(module)
    return by_kind


def _pooling(module, has_prompts):
    config = module.config
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if modes not in (["cls"], ["mean"]):
        raise ValueError(f"`{module.folder}` pools by {modes}; what can be converted is 'cls' or 'mean'.")
    if has_prompts and not config.get("include_prompt", True):
        raise ValueError(f"`{module.folder}` leaves prompts out of the pooling, which has no counterpart.")
    return modes[0]


def _prompts(settings):
    """As `encode_query` and `encode_document` choose them."""
    prompts = settings.get("prompts") or {}
    default = prompts.get(settings.get("default_prompt_name")) or ""
    document = next((prompts[name] for name in ("document", "passage", "corpus") if name in prompts), default)
    return {"query_prompt": prompts.get("query", default) or "", "document_prompt": document or ""}


def _lengths(config, tokenizer, encoder):
    """One length for all texts, unless the release has one for each kind; at most what the encoder has places for."""
    most = num_positions(encoder)
    longest = config.get("max_seq_length") or tokenizer.model_max_length
    lengths = {name: config.get(name) or longest for name in ("query_length", "document_length")}
    return {name: length if most is None else min(length, most) for name, length in lengths.items()}


def _notes(settings, fields):
    similarity, notes = settings.get("similarity_fn_name"), []
    if similarity not in (None, "dot") and not fields["normalize"]:
        notes.append(
            f"The model compares by {similarity!r}, the scores here are inner products: set `normalize=True` in the "
            "configuration for cosines."
        )
    named = sorted(set(settings.get("prompts") or {}) - {"query", "document", "passage", "corpus"})
    if named and any(settings["prompts"][name] for name in named):
        notes.append(f"The prompts {named} are for other tasks than retrieval and are left out.")
    return notes


__all__ = ["read_sentence_transformers"]
