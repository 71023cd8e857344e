"""DPR's encoders, and the readers and retrievers that the FiD repository released."""

from pathlib import Path

from transformers import BertConfig

from ..models.modeling_fid_t5 import FiDT5ForConditionalGeneration
from ..models.processing_fid_t5 import FiDT5Processor
from .checkpoints import (
    Checkpoint,
    base_of,
    build_retriever,
    load_config,
    load_tokenizer,
    read_json,
    read_pickle,
    read_weights,
    under,
)


_DPR_INPUTS = ["input_ids", "attention_mask"]  # segment ids are 0 everywhere, in titles and in texts
_DPR_LENGTH = 256  # of questions and contexts, in the DPR repository's settings
_DPR_TOWERS = {"question_encoder": ("encoder", "head"), "ctx_encoder": ("document_encoder", "document_head")}
_FID_FIELDS = ("apply_question_mask", "apply_passage_mask", "extract_cls", "indexing_dimension")
_FID_FIELDS += ("projection", "question_maxlength", "passage_maxlength", "model_type")


def read_dpr(path, tokenizer=None, document_encoder=None, **lengths):
    """
    DPR (https://github.com/facebookresearch/DPR) as a dual encoder with two towers: transformers' folders of a
    question and a context encoder, or a file of the DPR repository, which has both. Lengths default to DPR's 256.
    """
    if Path(path).is_file():
        towers, config, tokenizer, more = _read_dpr_file(path, tokenizer)
        lengths = {**more, **lengths}
    else:
        towers, config = _read_dpr_folders(path, document_encoder)
        tokenizer = load_tokenizer(tokenizer or path, model_input_names=_DPR_INPUTS)
    projection = towers["question_encoder"].get("encode_proj.weight")
    fields = {"share_encoders": False, "query_length": _DPR_LENGTH, "document_length": _DPR_LENGTH, **lengths}
    if projection is not None:
        fields |= {"embedding_dim": len(projection), "projection_norm": False}
    weights = {}
    for tower, (encoder, head) in _DPR_TOWERS.items():
        weights |= under(towers[tower], "bert_model", f"{encoder}.")
        weights |= under(towers[tower], "encode_proj", f"{head}.linear.")
    return build_retriever("biencoder", config, fields, weights, tokenizer, path)


def _read_dpr_folders(path, document_encoder):
    """The weights of both encoders, from one folder or two, and their BERT configuration."""
    if document_encoder is None:
        raise ValueError(
            f"`{path}` has one of DPR's two encoders: give the folder or repository of the other one as "
            "`document_encoder`."
        )
    towers, configs = {}, []
    for folder in (path, document_encoder):
        configs.append(load_config(folder))
        weights = read_weights(folder)
        found = [tower for tower in _DPR_TOWERS if under(weights, tower)]
        if configs[-1].model_type != "dpr" or len(found) != 1:
            raise ValueError(f"`{folder}` has neither a `DPRQuestionEncoder` nor a `DPRContextEncoder`.")
        if found[0] in towers:
            raise ValueError(f"`{path}` and `{document_encoder}` both have a {found[0]}: give one of each.")
        towers[found[0]] = under(weights, found[0])
    values = configs[0].to_dict()
    return towers, BertConfig(**{k: v for k, v in values.items() if k not in ("model_type", "projection_dim")})


def _read_dpr_file(path, tokenizer):
    """The same from a file of the DPR repository, with its tokenizer and lengths."""
    checkpoint = read_pickle(path, "model_dict", "encoder_params")
    settings = checkpoint["encoder_params"] or {}
    if settings.get("encoder_model_type", "hf_bert") != "hf_bert":
        raise ValueError(
            f"`{path}` has encoder_model_type={settings['encoder_model_type']!r}; only 'hf_bert' can be converted."
        )
    if settings.get("special_tokens"):
        raise ValueError(
            f"`{path}` has the special tokens {settings['special_tokens']}, which have no counterpart here."
        )
    base = base_of(path, tokenizer, settings.get("pretrained_model_cfg"))
    config = load_config(base)
    towers = {}
    for tower, prefix in (("question_encoder", "question_model"), ("ctx_encoder", "ctx_model")):
        weights = under(checkpoint["model_dict"], prefix)
        if not weights:
            raise ValueError(f"`{path}` has no `{prefix}`, one of DPR's two encoders.")
        towers[tower] = {
            name if name.startswith("encode_proj.") else f"bert_model.{name}": value for name, value in weights.items()
        }
    length = settings.get("sequence_length") or _DPR_LENGTH
    lengths = {"query_length": length, "document_length": length}
    return towers, config, load_tokenizer(base, model_input_names=_DPR_INPUTS), lengths


def read_fid(folder, tokenizer=None, **lengths):
    """
    A folder of the FiD repository (https://github.com/facebookresearch/FiD): a reader whose passages have no `</s>`,
    or a dual encoder that projects tokens before it pools them. The releases have no tokenizer: give T5's or BERT's.
    """
    config = read_json(folder / "config.json")
    tokenizer = load_tokenizer(tokenizer or folder)
    if "indexing_dimension" in config:
        return _fid_retriever(folder, config, tokenizer, lengths)
    if lengths:
        raise ValueError(f"`{folder}` has a reader: leave {sorted(lengths)} out.")
    model = FiDT5ForConditionalGeneration.from_pretrained(folder, dtype="auto")
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(f"The tokenizer has {len(tokenizer)} pieces, but the model only {model.config.vocab_size}.")
    return Checkpoint(model.eval(), FiDT5Processor(tokenizer, passage_eos=False), [])


def _fid_retriever(folder, config, tokenizer, lengths):
    masks = config.get("apply_question_mask", False), config.get("apply_passage_mask", False)
    if masks != (True, True):
        raise ValueError(
            f"`{folder}` has apply_question_mask={masks[0]} and apply_passage_mask={masks[1]}: it reads padding as "
            "text, which has no counterpart here."
        )
    projects = config.get("projection", True)
    fields = {
        "embedding_dim": config["indexing_dimension"] if projects else None,
        "project_tokens": projects,
        "pooling": "cls" if config.get("extract_cls", False) else "mean",
        "query_prompt": "question: ",
        "query_length": config.get("question_maxlength", 40),
        "document_length": config.get("passage_maxlength", 200),
        **lengths,
    }
    encoder = BertConfig(**{name: value for name, value in config.items() if name not in _FID_FIELDS})
    found = read_weights(folder)
    weights = {name: value for name, value in found.items() if name.partition(".")[0] not in ("model", "proj", "norm")}
    for theirs, ours in (("model", "encoder."), ("proj", "head.linear."), ("norm", "head.LayerNorm.")):
        weights |= under(found, theirs, ours)
    notes = ['Trained on passages written as "title: {title} context: {text}": give such texts, without titles.']
    return build_retriever("biencoder", encoder, fields, weights, tokenizer, folder, notes)


__all__ = ["read_dpr", "read_fid"]
