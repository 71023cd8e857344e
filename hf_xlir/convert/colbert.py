"""Checkpoints with one vector per token: ColBERT and PLAID folders, PrimeQA's DR.DECR files, BGE-M3."""

import string
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from ..models.processing_colbert_xlmr import PUBLISHED_MARKER_IDS, ColBERTXLMRProcessor
from .checkpoints import (
    base_of,
    build_retriever,
    load_config,
    load_tokenizer,
    load_transformer,
    read_json,
    read_pickle,
    read_weights,
    under,
)


BGE_M3_HEAD = "colbert_linear.pt"
_BGE_M3_LENGTH = 512  # FlagEmbedding's default for queries and passages
_COLBERT_DOCUMENT_LENGTH = 220  # ColBERT's default
_SAMPLE = "a b"


def is_colbert(folder):
    """Whether a folder was written by ColBERT."""
    config = read_json(Path(folder) / "config.json", default={})
    return (Path(folder) / "artifact.metadata").is_file() or config.get("architectures") == ["HF_ColBERT"]


def read_colbert(folder, tokenizer=None, **lengths):
    """
    A folder of ColBERT (https://github.com/stanford-futuredata/ColBERT): an encoder with `linear.weight`, and settings
    in `artifact.metadata`, or ColBERT's defaults where that file is absent.
    """
    metadata = read_json(folder / "artifact.metadata", default={})
    metadata = metadata.get("config", metadata)
    tokenizer, config = load_tokenizer(tokenizer or folder), load_config(folder)
    return _build(folder, read_weights(folder), config, tokenizer, metadata, _colbert_settings, lengths)


def read_drdecr(path, tokenizer=None, **lengths):
    """
    A `.dnn` or `.model` file of PrimeQA, such as the published DR.DECR, or of ColBERT's first version: a pickle of
    `model_state_dict`, `config` and `arguments`. An XLM-R checkpoint keeps the published code's mask (`mask_id_zero`)
    and its list of skipped tokens: the first piece of each punctuation mark, in XLM-R often the bare word boundary.
    """
    checkpoint = read_pickle(path, "model_state_dict")
    arguments = dict(checkpoint.get("arguments") or {})
    base = base_of(path, tokenizer, arguments.get("model"), checkpoint.get("model_type"))
    values = checkpoint.get("config")
    if values and values.get("model_type") in CONFIG_MAPPING:
        config = CONFIG_MAPPING[values["model_type"]].from_dict(values)
    else:
        config = load_config(base)
    settings = {"xlm-roberta": _drdecr_settings, "bert": _colbert_settings}.get(config.model_type)
    if settings is None:
        raise ValueError(f"`{path}` has an encoder of type {config.model_type!r}, expected 'xlm-roberta' or 'bert'.")
    weights = checkpoint["model_state_dict"]
    for prefix in ("module", "model"):  # added by data-parallel training and by PrimeQA's module
        weights = under(weights, prefix) or weights
    if config.model_type == "xlm-roberta":  # PrimeQA saves the encoder twice, under two names
        weights = {name: value for name, value in weights.items() if not name.startswith("bert.")}
    return _build(path, weights, config, load_tokenizer(base), arguments, settings, lengths)


def read_bge_m3(folder, tokenizer=None, **lengths):
    """
    The multi-vector part of BGE-M3 (https://huggingface.co/papers/2402.03216), as FlagEmbedding computes it: no
    markers, no expansion, a projection with bias, and a vector for each token but `<s>`. Lengths default to
    FlagEmbedding's 512; the released model takes up to 8192.
    """
    if not (folder / BGE_M3_HEAD).is_file():
        raise ValueError(f"`{folder}` has no `{BGE_M3_HEAD}`, so the projection is missing.")
    head = read_pickle(folder / BGE_M3_HEAD, "weight", "bias")
    encoder, tokenizer = load_transformer(folder), load_tokenizer(tokenizer or folder)
    fields = {
        "embedding_dim": len(head["weight"]),
        "projection_bias": True,
        "use_markers": False,
        "query_expansion": "none",
        "skip_punctuation": False,
        "skip_ids": [tokenizer.cls_token_id],
        "query_skip_ids": [tokenizer.cls_token_id],
        **{"query_length": _BGE_M3_LENGTH, "document_length": _BGE_M3_LENGTH, **lengths},
    }
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    weights |= {f"linear.{name}": value for name, value in head.items()}
    notes = [
        "FlagEmbedding divides a score by the number of query vectors. The order of documents is the same.",
        "BGE-M3's dense and sparse heads are left out. To get the dense head, convert the folder again with "
        "`format='sentence-transformers'`.",
    ]
    return build_retriever("colbert_xlmr", encoder.config, fields, weights, tokenizer, folder, notes)


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
        notes.append("Trained with similarity='l2': scores are cosines here, which rank documents in the same order.")
    fields = {
        "query_length": metadata.get("query_maxlen"),
        "document_length": metadata.get("doc_maxlen"),
        **settings(source, tokenizer, metadata),
    }
    fields = {**{name: value for name, value in fields.items() if value is not None}, **lengths}
    prefix = MODEL_MAPPING[type(config)].base_model_prefix
    others = {name: value for name, value in weights.items() if not name.startswith(f"{prefix}.")}
    weights = {**others, **under(weights, prefix, "encoder.")}
    fields["embedding_dim"] = embedding_dim
    return build_retriever("colbert_xlmr", config, fields, weights, tokenizer, source, notes)


def _colbert_settings(source, tokenizer, metadata):
    """The settings of ColBERT's code for BERT and similar encoders."""
    markers = []
    for key, default in (("query_token_id", "[unused0]"), ("doc_token_id", "[unused1]")):
        token = metadata.get(key) or default
        token_id = tokenizer.convert_tokens_to_ids(token)
        if token_id in (None, tokenizer.unk_token_id):
            raise ValueError(f"`{source}` has the marker {token!r} ({key}), which its tokenizer does not have.")
        markers.append(token_id)
    _check_placeholder(source, tokenizer, ". ")
    return {
        "query_marker_id": markers[0],
        "document_marker_id": markers[1],
        "document_length": metadata.get("doc_maxlen") or _COLBERT_DOCUMENT_LENGTH,
        "query_expansion": "mask",
        "attend_to_expansion": bool(metadata.get("attend_to_mask_tokens", False)),
        **_skipped(tokenizer, metadata),
    }


def _drdecr_settings(source, tokenizer, metadata):
    """The settings of PrimeQA's code for XLM-R."""
    if len(tokenizer) <= max(PUBLISHED_MARKER_IDS):
        raise ValueError(
            f"The tokenizer for `{source}` has {len(tokenizer)} pieces, but PrimeQA's markers are "
            f"{PUBLISHED_MARKER_IDS}: give XLM-R's as `tokenizer`."
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
    """Both libraries put a word in front of a text and replace its piece by the marker: it must be one piece."""
    pieces, with_placeholder = tokenizer([_SAMPLE, placeholder + _SAMPLE], add_special_tokens=False)["input_ids"]
    if with_placeholder[1:] != pieces:
        raise ValueError(
            f"`{source}` has a tokenizer that makes {len(with_placeholder) - len(pieces)} pieces of {placeholder!r}; "
            "ColBERT replaces one of them by the marker. Such inputs cannot be made here."
        )


def _skipped(tokenizer, metadata):
    """The tokens that documents' scores leave out: the first piece of every punctuation mark."""
    if not metadata.get("mask_punctuation", True):
        return {"skip_punctuation": False}
    first = {ids[0] for ids in tokenizer(list(string.punctuation), add_special_tokens=False)["input_ids"]}
    own = ColBERTXLMRProcessor(tokenizer)._punctuation_ids()
    if torch.equal(own, torch.tensor(sorted(first))):
        return {}
    return {"skip_punctuation": False, "skip_ids": sorted(first)}


__all__ = ["BGE_M3_HEAD", "is_colbert", "read_bge_m3", "read_colbert", "read_drdecr"]
