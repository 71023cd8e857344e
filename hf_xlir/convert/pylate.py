"""PyLate's folders: sentence-transformers' modules for late interaction."""

import string

from ..models.configuration_colbert_xlmr import ColBERTXLMRConfig
from ..models.modeling_colbert_xlmr import ColBERTXLMRModel
from ..models.processing_colbert_xlmr import ColBERTXLMRProcessor
from .files import (
    Checkpoint,
    encoder_fields,
    fill,
    load_encoder,
    load_tokenizer,
    make_processor,
)
from .modules import check_transformer, read_modules, read_projection, read_settings


def read_pylate(folder, tokenizer=None, **lengths):
    r"""
    A folder of PyLate (https://github.com/lightonai/pylate): a transformer, one or more linear layers, and the
    settings of `pylate.models.ColBERT` in `config_sentence_transformers.json`, or PyLate's defaults.

    Args:
        folder (`Path`):
            The folder.
        tokenizer (`str`, *optional*):
            Where the tokenizer is, if not in the folder.
        lengths:
            `query_length`, `document_length`, in place of those of the checkpoint.

    Returns:
        [`Checkpoint`] of a [`ColBERTXLMRModel`].

    Raises:
        ValueError: If the projection or another weight is missing, a marker is no piece of the tokenizer, or a
            setting has no counterpart.
    """
    modules, settings = read_modules(folder), read_settings(folder)
    kinds = [module.kind for module in modules]
    if kinds[:1] != ["Transformer"] or set(kinds[1:]) - {"Dense"}:
        raise ValueError(f"`{folder}` must have a `Transformer` and `Dense` modules, got {kinds}.")
    if len(modules) == 1:
        raise ValueError(f"`{folder}` has no `Dense` module, so the projection is missing: PyLate would make one up.")
    projection = read_projection(modules[1:])
    if projection.activation is not None:
        raise ValueError(f"`{folder}` has a projection with {projection.activation!r}; only a linear one can be.")

    transformer = modules[0]
    encoder = load_encoder(transformer.folder)
    tokenizer = load_tokenizer(tokenizer or transformer.folder)
    check_transformer(transformer, tokenizer)
    _restore_padding(tokenizer, encoder)
    expands = settings.get("do_query_expansion", True)
    if expands and tokenizer.mask_token_id is None:
        raise ValueError(
            f"`{folder}` expands queries by a tokenizer without a `mask_token`, which has no counterpart."
        )
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name")) or ""
    # What is no piece of the tokenizer counts as its unknown token there, which then is skipped
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
    model = ColBERTXLMRModel(ColBERTXLMRConfig(encoder_config=encoder_fields(encoder.config), **fields))
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    weights |= {"linear.weight": projection.weight}
    weights |= {} if projection.bias is None else {"linear.bias": projection.bias}
    fill(model, weights, folder)
    processor = make_processor(ColBERTXLMRProcessor, tokenizer, model.config)
    return Checkpoint(model, processor, _notes(settings, len(modules) - 1))


def _markers(folder, settings, tokenizer):
    tokens = settings.get("query_prefix", "[Q] "), settings.get("document_prefix", "[D] ")
    if tokens == ("", ""):
        return {"use_markers": False}
    ids = [tokenizer.convert_tokens_to_ids(token) for token in tokens]
    for token, token_id in zip(tokens, ids, strict=True):
        if token == "":
            raise ValueError(f"`{folder}` has the markers {tokens}: with one alone it cannot be converted.")
        if token_id in (None, tokenizer.unk_token_id):
            raise ValueError(f"`{folder}` has the marker {token!r}, which is no piece of its tokenizer.")
    return dict(zip(("query_marker_id", "document_marker_id"), ids, strict=True))


def _restore_padding(tokenizer, encoder):
    """PyLate saves its tokenizers with the mask token as the padding token, too; the encoder knows its own."""
    own = encoder.config.pad_token_id
    if tokenizer.pad_token_id == tokenizer.mask_token_id and own is not None and own != tokenizer.pad_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(own)


def _notes(settings, num_layers):
    notes = []
    if num_layers > 1:
        notes.append(f"{num_layers} linear layers in a row became one.")
    default = settings.get("default_prompt_name")
    named = sorted(name for name, text in (settings.get("prompts") or {}).items() if text and name != default)
    if named:
        notes.append(
            f"The prompts {named} are left out: PyLate uses them only where they are named. Set `query_prompt` and "
            "`document_prompt` in the configuration and the processor if they should be."
        )
    return notes


__all__ = ["read_pylate"]
