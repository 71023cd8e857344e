"""What the FiD repository released: readers, and the retrievers that learnt from them."""

from transformers import BertConfig

from ..models.configuration_biencoder import BiEncoderConfig
from ..models.modeling_biencoder import BiEncoderModel
from ..models.modeling_fid_t5 import FiDT5ForConditionalGeneration
from ..models.processing_biencoder import BiEncoderProcessor
from ..models.processing_fid_t5 import FiDT5Processor
from .files import (
    Checkpoint,
    encoder_fields,
    fill,
    load_tokenizer,
    make_processor,
    read_json,
    read_weights,
    under,
)


RETRIEVER_FIELDS = ("apply_question_mask", "apply_passage_mask", "extract_cls", "indexing_dimension")
RETRIEVER_FIELDS += ("projection", "question_maxlength", "passage_maxlength", "model_type")


def read_fid(folder, tokenizer=None, **lengths):
    r"""
    A folder of the FiD repository (https://github.com/facebookresearch/FiD): a reader or a retriever.

    Args:
        folder (`Path`):
            The folder.
        tokenizer (`str`, *optional*):
            Folder or Hub repository of the tokenizer, which the releases do not have: that of T5 or BERT.
        lengths:
            `query_length`, `document_length` of a retriever, in place of those of the checkpoint.

    Returns:
        [`Checkpoint`] of a [`FiDT5ForConditionalGeneration`], whose passages have no `</s>`, or of a
        [`BiEncoderModel`] that projects tokens before it pools them.

    Raises:
        ValueError: If a weight is missing, there is no tokenizer, or a setting has no counterpart.
    """
    config = read_json(folder / "config.json")
    tokenizer = load_tokenizer(tokenizer or folder)
    if "indexing_dimension" in config:
        return _retriever(folder, config, tokenizer, lengths)
    if lengths:
        raise ValueError(f"`{folder}` has a reader, which takes none of {sorted(lengths)}.")
    model = FiDT5ForConditionalGeneration.from_pretrained(folder, dtype="auto")
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(f"The tokenizer has {len(tokenizer)} pieces, the model only {model.config.vocab_size}.")
    return Checkpoint(model.eval(), FiDT5Processor(tokenizer, passage_eos=False), [])


def _retriever(folder, config, tokenizer, lengths):
    pooling = "cls" if config.get("extract_cls", False) else "mean"
    masks = config.get("apply_question_mask", False), config.get("apply_passage_mask", False)
    if masks != (True, True):
        raise ValueError(
            f"`{folder}` has apply_question_mask={masks[0]} and apply_passage_mask={masks[1]}: it reads padding as if "
            "it were text, which has no counterpart."
        )
    projects = config.get("projection", True)
    encoder = {name: value for name, value in config.items() if name not in RETRIEVER_FIELDS}
    model = BiEncoderModel(
        BiEncoderConfig(
            encoder_config=encoder_fields(BertConfig(**encoder)),
            embedding_dim=config["indexing_dimension"] if projects else None,
            project_tokens=projects,
            pooling=pooling,
            query_prompt="question: ",
            **{
                "query_length": config.get("question_maxlength", 40),
                "document_length": config.get("passage_maxlength", 200),
                **lengths,
            },
        )
    )
    weights = read_weights(folder)
    renamed = {f"encoder.{name}": value for name, value in under(weights, "model").items()}
    for theirs, ours in (("proj", "head.linear"), ("norm", "head.LayerNorm")):
        renamed |= {f"{ours}.{name}": value for name, value in under(weights, theirs).items()}
    others = {
        name: value for name, value in weights.items() if name.partition(".")[0] not in ("model", "proj", "norm")
    }
    fill(model, {**others, **renamed}, folder)
    notes = [
        'It was trained on passages written as "title: {title} context: {text}": give such texts, without titles.'
    ]
    return Checkpoint(model, make_processor(BiEncoderProcessor, tokenizer, model.config), notes)


__all__ = ["read_fid"]
