"""ColBERT's and PLAID's checkpoints, and those of PrimeQA's DR.DECR."""

import string
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from ..models.configuration_colbert_xlmr import ColBERTXLMRConfig
from ..models.modeling_colbert_xlmr import ColBERTXLMRModel
from ..models.processing_colbert_xlmr import PUBLISHED_MARKER_IDS, ColBERTXLMRProcessor
from .files import (
    Checkpoint,
    encoder_fields,
    fill,
    load_config,
    load_tokenizer,
    make_processor,
    read_json,
    read_pickle,
    read_weights,
    under,
)


SAMPLE = "a b"


def read_colbert(folder, tokenizer=None, **lengths):
    r"""
    A folder of ColBERT (https://github.com/stanford-futuredata/ColBERT): an encoder with `linear.weight`, and its
    settings in `artifact.metadata`, or ColBERT's defaults where that is absent.

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
        ValueError: If the projection or another weight is missing, or a setting has no counterpart.
    """
    metadata = read_json(folder / "artifact.metadata", default={})
    metadata = metadata.get("config", metadata)
    tokenizer, config = load_tokenizer(tokenizer or folder), load_config(folder)
    return _build(folder, read_weights(folder), config, tokenizer, metadata, _published_colbert, lengths)


def read_drdecr(path, tokenizer=None, **lengths):
    r"""
    A `.dnn` or `.model` file of PrimeQA, such as the published DR.DECR, or of ColBERT's first version: a pickle of
    `model_state_dict`, `config` and `arguments`.

    Args:
        path (`Path`):
            The file. It is read without running anything.
        tokenizer (`str`, *optional*):
            Folder or Hub repository of the encoder that was trained, for its tokenizer and, where the file has none,
            its configuration. Defaults to what the file names.
        lengths:
            `query_length`, `document_length`, in place of those of the checkpoint.

    Returns:
        [`Checkpoint`] of a [`ColBERTXLMRModel`]. For XLM-R it has the markers 9748 and 9749, scores padding in
        queries, and reproduces the published code's mask (`mask_id_zero`) and its list of skipped tokens: the first
        piece of each punctuation mark, which in XLM-R is often the bare word boundary.

    Raises:
        ValueError: If the pickle needs more than tensors and plain values, the projection or another weight is
            missing, or the encoder is another one than XLM-R or BERT.
    """
    checkpoint = read_pickle(path)
    if not isinstance(checkpoint, dict) or "model_state_dict" not in checkpoint:
        found = sorted(checkpoint) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"`{path}` must hold a dict with `model_state_dict`, got {found}.")
    arguments = dict(checkpoint.get("arguments") or {})
    base = tokenizer or arguments.get("model") or checkpoint.get("model_type")
    if base is None:
        raise ValueError(
            f"`{path}` does not say of which encoder it is: give `tokenizer`, a folder or Hub repository of that "
            "encoder, for instance FacebookAI/xlm-roberta-base."
        )
    values = checkpoint.get("config")
    if values and values.get("model_type") in CONFIG_MAPPING:
        config = CONFIG_MAPPING[values["model_type"]].from_dict(values)
    else:
        config = load_config(base)
    settings = {"xlm-roberta": _published_drdecr, "bert": _published_colbert}.get(config.model_type)
    if settings is None:
        raise ValueError(
            f"`{path}` has an encoder of type {config.model_type!r}: of PrimeQA's only 'xlm-roberta' and 'bert' can "
            "be converted."
        )
    weights = checkpoint["model_state_dict"]
    for prefix in ("module", "model"):  # what data-parallel training and PrimeQA's module add
        weights = under(weights, prefix) or weights
    if config.model_type == "xlm-roberta":  # PrimeQA saves the encoder under a second name, too
        weights = {name: value for name, value in weights.items() if not name.startswith("bert.")}
    return _build(path, weights, config, load_tokenizer(base), arguments, settings, lengths)


def _build(source, weights, config, tokenizer, metadata, settings, lengths):
    if "linear.weight" not in weights:
        raise ValueError(f"`{source}` has no `linear.weight`, ColBERT's projection: it is a bare encoder.")
    embedding_dim = len(weights["linear.weight"])
    if metadata.get("dim", embedding_dim) != embedding_dim:
        raise ValueError(f"`{source}` says dim={metadata['dim']}, but its projection gives {embedding_dim}.")
    if metadata.get("interaction", "colbert") != "colbert":
        raise ValueError(f"`{source}` has interaction={metadata['interaction']!r}; only 'colbert' can be converted.")
    notes = []
    if metadata.get("similarity", "cosine") == "l2":
        notes.append("Trained with similarity='l2': scores are cosines here, which rank the same documents alike.")
    fields = {
        "query_length": metadata.get("query_maxlen"),
        "document_length": metadata.get("doc_maxlen"),
        **settings(source, tokenizer, metadata),
    }
    fields = {**{name: value for name, value in fields.items() if value is not None}, **lengths}
    config_fields = encoder_fields(config)
    model = ColBERTXLMRModel(ColBERTXLMRConfig(encoder_config=config_fields, embedding_dim=embedding_dim, **fields))
    prefix = MODEL_MAPPING[type(config)].base_model_prefix
    renamed = {f"encoder.{name}": value for name, value in under(weights, prefix).items()}
    others = {name: value for name, value in weights.items() if not name.startswith(f"{prefix}.")}
    fill(model, {**others, **renamed}, source)
    return Checkpoint(model, make_processor(ColBERTXLMRProcessor, tokenizer, model.config), notes)


def _published_colbert(source, tokenizer, metadata):
    """Settings that ColBERT's own code has for BERT and its kin."""
    markers = []
    for key, default in (("query_token_id", "[unused0]"), ("doc_token_id", "[unused1]")):
        token = metadata.get(key) or default
        token_id = tokenizer.convert_tokens_to_ids(token)
        if token_id in (None, tokenizer.unk_token_id):
            raise ValueError(f"`{source}` has the marker {token!r} ({key}), which its tokenizer does not know.")
        markers.append(token_id)
    _check_placeholder(source, tokenizer, ". ")
    if metadata.get("doc_maxlen") is None:
        metadata = {**metadata, "doc_maxlen": 220}
    return {
        "query_marker_id": markers[0],
        "document_marker_id": markers[1],
        "document_length": metadata["doc_maxlen"],
        "query_expansion": "mask",
        "attend_to_expansion": bool(metadata.get("attend_to_mask_tokens", False)),
        **_skipped(tokenizer, metadata),
    }


def _published_drdecr(source, tokenizer, metadata):
    """Settings that PrimeQA's code has for XLM-R."""
    if len(tokenizer) <= max(PUBLISHED_MARKER_IDS):
        raise ValueError(
            f"The tokenizer for `{source}` has {len(tokenizer)} pieces, but PrimeQA's markers are "
            f"{PUBLISHED_MARKER_IDS}: give that of XLM-R as `tokenizer`."
        )
    _check_placeholder(source, tokenizer, "$ ")
    query_marker, document_marker = PUBLISHED_MARKER_IDS
    return {
        "query_marker_id": query_marker,
        "document_marker_id": document_marker,
        "query_expansion": "pad",
        "mask_id_zero": True,
        **_skipped(tokenizer, metadata),
    }


def _check_placeholder(source, tokenizer, placeholder):
    """Both libraries put a word in front and overwrite its piece by the marker, which must be one piece for that."""
    pieces, with_placeholder = tokenizer([SAMPLE, placeholder + SAMPLE], add_special_tokens=False)["input_ids"]
    if with_placeholder[1:] != pieces:
        raise ValueError(
            f"`{source}` was trained with a tokenizer that makes {len(with_placeholder) - len(pieces)} pieces of "
            f"{placeholder!r}, of which ColBERT replaces one by the marker: such inputs cannot be made here."
        )


def _skipped(tokenizer, metadata):
    """Left out of documents' scores: the first piece of every punctuation mark."""
    if not metadata.get("mask_punctuation", True):
        return {"skip_punctuation": False}
    first = {ids[0] for ids in tokenizer(list(string.punctuation), add_special_tokens=False)["input_ids"]}
    own = ColBERTXLMRProcessor(tokenizer)._punctuation_ids()
    if torch.equal(own, torch.tensor(sorted(first))):
        return {}
    return {"skip_punctuation": False, "skip_ids": sorted(first)}


def is_colbert(folder):
    """Whether a folder is one of ColBERT."""
    config = read_json(Path(folder) / "config.json", default={})
    return (Path(folder) / "artifact.metadata").is_file() or config.get("architectures") == ["HF_ColBERT"]


__all__ = ["is_colbert", "read_colbert", "read_drdecr"]
