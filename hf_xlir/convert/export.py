"""Writers of folders for PyLate, sentence-transformers and plain transformers. Each returns notes for the user."""

import copy
import json

import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM

from ..models.auto import family_of
from .sentence_transformers import MODULES, POOLING_FLAGS, SETTINGS


_ACTIVATIONS = {
    None: "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
}
_MARKERS = ("[Q] ", "[D] ")
_ST_MODULES = "sentence_transformers.models"


def export_pylate(model, processor, folder):
    """A ColBERT as a folder that `pylate.models.ColBERT` loads, with the same embeddings."""
    for name in ("mask_id_zero", "query_skip_ids"):
        if getattr(processor, name):
            raise ValueError(f"The model has {name}={getattr(processor, name)!r}, which PyLate does not have.")
    tokenizer, encoder = copy.deepcopy(processor.tokenizer), model.encoder
    prefixes = ("", "")
    if processor.use_markers:
        prefixes, encoder = _marker_tokens(processor, tokenizer, encoder)
    skipped = set(processor.skip_ids)
    if processor.skip_punctuation:
        skipped |= set(processor._punctuation_ids().tolist())
    words = processor.tokenizer.convert_ids_to_tokens(sorted(skipped))
    if processor.query_expansion == "pad":
        tokenizer.mask_token = tokenizer.pad_token  # PyLate expands by the tokenizer's mask token
    prompts, default, notes = {"query": "", "document": ""}, None, []
    if processor.query_prompt == processor.document_prompt != "":
        prompts, default = {"both": processor.query_prompt}, "both"
    elif processor.query_prompt or processor.document_prompt:
        prompts = {"query": processor.query_prompt, "document": processor.document_prompt}
        notes.append('PyLate uses prompts only when they are named: `encode(..., prompt_name="query")`.')

    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_transformer(folder, processor.document_length)
    _write_dense(folder / "1_Dense", model.linear, None, use_residual=False)
    _write_json(folder / MODULES, _entries([("Transformer", ""), ("Dense", "1_Dense", "pylate.models.Dense.Dense")]))
    settings = {
        "model_type": "ColBERT",
        "prompts": prompts,
        "default_prompt_name": default,
        "similarity_fn_name": "MaxSim",
        "query_prefix": prefixes[0],
        "document_prefix": prefixes[1],
        "query_length": processor.query_length,
        "document_length": processor.document_length,
        "attend_to_expansion_tokens": processor.attend_to_expansion,
        "skiplist_words": words,
        "do_query_expansion": processor.query_expansion != "none",
    }
    _write_json(folder / SETTINGS, settings)
    return notes


def export_sentence_transformers(model, processor, folder):
    """
    A dual encoder as a folder that `SentenceTransformer` loads, with the same embeddings. Two towers become two
    folders, `query` and `document`.
    """
    config = model.config
    if config.pooling not in ("cls", "mean") or config.project_tokens:
        which = "project_tokens=True" if config.project_tokens else f"pooling={config.pooling!r}"
        raise ValueError(f"The model has {which}, which sentence-transformers does not have.")
    notes = ["Title and text are a sentence pair here: give sentence-transformers the pair, not one joined text."]
    if config.share_encoders:
        if processor.query_length != processor.document_length:
            notes.append(
                f"Queries are cut at {processor.document_length} token ids like documents, not at "
                f"{processor.query_length}."
            )
        _write_tower(model, processor, "document", folder)
        return notes
    for text_type in ("query", "document"):
        _write_tower(model, processor, text_type, folder / text_type)
    return [*notes, "The two towers are two models, in the folders `query` and `document`."]


def export_transformers(model, processor, folder):
    """The encoder alone as a folder of plain transformers, or a reader as its T5 backbone."""
    lost = [f"{name}={getattr(processor, name)!r}" for name in processor.settings]
    family = family_of(model)
    if family.role == "reader":
        _write_backbone(model, processor, folder)
        return [f"The backbone reads one text at a time. It lacks {', '.join(lost)}."]
    if family.vectors == "token_vectors":
        lost = ["the projection `linear`", *lost]
        _write_encoder(model.encoder, processor, folder)
    else:
        lost = [f"pooling={model.config.pooling!r}", f"normalize={model.config.normalize}", *lost]
        lost += ["the projection `head`"] if model.config.embedding_dim else []
        towers = {"document": folder}
        if not model.config.share_encoders:
            towers = {"query": folder / "query", "document": folder / "document"}
        for text_type, place in towers.items():
            _write_encoder(model.tower(text_type)[0], processor, place)
    return [f"The encoder is written alone. It lacks {', '.join(lost)}."]


def _write_backbone(model, processor, folder):
    config_class = CONFIG_MAPPING[model.config.backbone_model_type]
    values = model.config.to_dict()
    for name in ("model_type", "architectures", "auto_map", "transformers_version", "backbone_model_type"):
        values.pop(name, None)
    backbone = AutoModelForSeq2SeqLM.from_config(config_class(**values), dtype=model.dtype)
    own = {name: value for name, value in model.state_dict().items() if name in backbone.state_dict()}
    backbone.load_state_dict(own)  # strict: no weight of the backbone may stay random
    backbone.generation_config = model.generation_config
    _write_encoder(backbone, processor, folder)


def _write_tower(model, processor, text_type, folder):
    encoder, head = model.tower(text_type)
    config = model.config
    _write_encoder(encoder, processor, folder)
    _write_transformer(folder, getattr(processor, f"{text_type}_length"))
    pooling = {"word_embedding_dimension": config.encoder_config.hidden_size, "include_prompt": True}
    pooling |= {flag: mode == config.pooling for flag, mode in POOLING_FLAGS.items()}
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    if config.embedding_dim:
        modules.append(("Dense", f"{len(modules)}_Dense"))
        _write_dense(folder / modules[-1][1], head.linear, config.projection_activation)
        if config.projection_norm:
            modules.append(("LayerNorm", f"{len(modules)}_LayerNorm"))
            _write_json(folder / modules[-1][1] / "config.json", {"dimension": config.embedding_dim})
            norm = {f"norm.{name}": value for name, value in head.LayerNorm.state_dict().items()}
            _save(norm, folder / modules[-1][1])
    if config.normalize:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
        (folder / modules[-1][1]).mkdir()
    _write_json(folder / MODULES, _entries(modules))
    settings = {
        "model_type": "SentenceTransformer",
        "prompts": {"query": processor.query_prompt, "document": processor.document_prompt},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if config.normalize else "dot",
    }
    _write_json(folder / SETTINGS, settings)


def _marker_tokens(processor, tokenizer, encoder):
    """
    The markers as tokens that PyLate finds by name. A marker that is an ordinary piece would be cut out of texts if it
    became a token, so new tokens with the same embeddings take the markers' place.
    """
    ids = processor.query_marker_id, processor.document_marker_id
    added = tokenizer.added_tokens_decoder
    if all(each in added and each not in tokenizer.all_special_ids for each in ids):
        return tuple(added[each].content for each in ids), encoder
    vocabulary = tokenizer.get_vocab()
    names = [
        name if name not in vocabulary else f"{name[:-2]}{each}] " for name, each in zip(_MARKERS, ids, strict=True)
    ]
    encoder = copy.deepcopy(encoder)
    tokenizer.add_tokens(names)
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    embeddings = encoder.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[tokenizer.convert_tokens_to_ids(names)] = embeddings[list(ids)]
    return tuple(names), encoder


def _write_encoder(encoder, processor, folder):
    folder.mkdir(exist_ok=True)
    encoder.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)


def _write_transformer(folder, length):
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})


def _write_dense(folder, linear, activation, **more):
    config = {"in_features": linear.in_features, "out_features": linear.out_features}
    config |= {"bias": linear.bias is not None, "activation_function": _ACTIVATIONS[activation], **more}
    _write_json(folder / "config.json", config)
    _save({f"linear.{name}": value for name, value in linear.state_dict().items()}, folder)


def _save(weights, folder):
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")


def _entries(modules):
    """Entries of `modules.json` for pairs of kind and folder; a third member is the full class name."""
    return [
        {"idx": index, "name": str(index), "path": path, "type": (other or [f"{_ST_MODULES}.{kind}"])[0]}
        for index, (kind, path, *other) in enumerate(modules)
    ]


def _write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


__all__ = ["export_pylate", "export_sentence_transformers", "export_transformers"]
