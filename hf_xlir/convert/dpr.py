"""DPR's question and context encoders, as transformers' folders or as the checkpoints of the DPR repository."""

from pathlib import Path

from transformers import BertConfig

from ..models.configuration_biencoder import BiEncoderConfig
from ..models.modeling_biencoder import BiEncoderModel
from ..models.processing_biencoder import BiEncoderProcessor
from .files import (
    Checkpoint,
    encoder_fields,
    fill,
    load_config,
    load_tokenizer,
    make_processor,
    read_pickle,
    read_weights,
    under,
)


MODEL_INPUTS = ["input_ids", "attention_mask"]  # segment ids are 0 everywhere, in titles and in texts
LENGTH = 256  # of questions and contexts, in the DPR repository's settings
TOWERS = {"question_encoder": ("encoder", "head"), "ctx_encoder": ("document_encoder", "document_head")}


def read_dpr(path, tokenizer=None, document_encoder=None, **lengths):
    r"""
    DPR (https://github.com/facebookresearch/DPR): a question encoder and a context encoder.

    Args:
        path (`Path`):
            Folder of a `DPRQuestionEncoder` or `DPRContextEncoder` of transformers, or a checkpoint of the DPR
            repository, which has both.
        tokenizer (`str`, *optional*):
            Folder or Hub repository of the tokenizer and, for a checkpoint of the DPR repository, which has none, of
            the encoder's configuration. Defaults to `path`, or to what the checkpoint names.
        document_encoder (`Path`, *optional*):
            For a folder: that of the other encoder.
        lengths:
            `query_length`, `document_length`; both are 256 by default, as in the DPR repository.

    Returns:
        [`Checkpoint`] of a [`BiEncoderModel`] with two towers.

    Raises:
        ValueError: If one of the two encoders or a weight is missing, or the encoder is another one than BERT.
    """
    if Path(path).is_file():
        towers, config, tokenizer, more = _read_release(path, tokenizer)
        lengths = {**more, **lengths}
    else:
        towers, config = _read_folders(path, document_encoder)
        tokenizer = load_tokenizer(tokenizer or path, model_input_names=MODEL_INPUTS)
    projection = towers["question_encoder"].get("encode_proj.weight")
    fields = {"query_length": LENGTH, "document_length": LENGTH, **lengths}
    if projection is not None:
        fields |= {"embedding_dim": len(projection), "projection_norm": False}
    model = BiEncoderModel(BiEncoderConfig(encoder_config=encoder_fields(config), share_encoders=False, **fields))
    weights = {}
    for tower, (encoder, head) in TOWERS.items():
        weights |= {f"{encoder}.{name}": value for name, value in under(towers[tower], "bert_model").items()}
        weights |= {f"{head}.linear.{name}": value for name, value in under(towers[tower], "encode_proj").items()}
    fill(model, weights, path)
    return Checkpoint(model, make_processor(BiEncoderProcessor, tokenizer, model.config), [])


def _read_folders(path, document_encoder):
    """The two encoders' weights, whichever folder each is in, and the BERT that they are."""
    if document_encoder is None:
        raise ValueError(
            f"`{path}` has one of DPR's two encoders: give the folder or repository of the other one as "
            "`document_encoder`."
        )
    towers, configs = {}, []
    for folder in (path, document_encoder):
        configs.append(load_config(folder))
        weights = read_weights(folder)
        found = [tower for tower in TOWERS if under(weights, tower)]
        if configs[-1].model_type != "dpr" or len(found) != 1:
            raise ValueError(f"`{folder}` has no `DPRQuestionEncoder` or `DPRContextEncoder`.")
        if found[0] in towers:
            raise ValueError(f"`{path}` and `{document_encoder}` both have a {found[0]}: give one of each.")
        towers[found[0]] = under(weights, found[0])
    values = encoder_fields(configs[0])
    values.pop("model_type")
    return towers, BertConfig(**{name: value for name, value in values.items() if name != "projection_dim"})


def _read_release(path, tokenizer):
    """The same of a checkpoint of the DPR repository, with its tokenizer and lengths."""
    checkpoint = read_pickle(path)
    if not isinstance(checkpoint, dict) or not {"model_dict", "encoder_params"} <= checkpoint.keys():
        found = sorted(checkpoint) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"`{path}` must hold a dict with `model_dict` and `encoder_params`, got {found}.")
    settings = checkpoint["encoder_params"] or {}
    if settings.get("encoder_model_type", "hf_bert") != "hf_bert":
        raise ValueError(f"`{path}` has encoder_model_type={settings['encoder_model_type']!r}, not 'hf_bert'.")
    if settings.get("special_tokens"):
        raise ValueError(f"`{path}` has the special tokens {settings['special_tokens']}, which have no counterpart.")
    base = tokenizer or settings.get("pretrained_model_cfg")
    if base is None:
        raise ValueError(
            f"`{path}` does not say of which encoder it is: give `tokenizer`, a folder or Hub repository of that "
            "encoder, for instance google-bert/bert-base-uncased."
        )
    config = load_config(base)
    towers = {}
    for tower, prefix in (("question_encoder", "question_model"), ("ctx_encoder", "ctx_model")):
        weights = under(checkpoint["model_dict"], prefix)
        if not weights:
            raise ValueError(f"`{path}` has no `{prefix}`, one of DPR's two encoders.")
        towers[tower] = {
            name if name.startswith("encode_proj.") else f"bert_model.{name}": value for name, value in weights.items()
        }
    length = settings.get("sequence_length") or LENGTH
    lengths = {"query_length": length, "document_length": length}
    return towers, config, load_tokenizer(base, model_input_names=MODEL_INPUTS), lengths


__all__ = ["read_dpr"]
