"""BGE-M3's head for one vector a token."""

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
    read_pickle,
)


HEAD = "colbert_linear.pt"
LENGTH = 512  # of queries and passages, by default in FlagEmbedding


def read_bge_m3(folder, tokenizer=None, **lengths):
    r"""
    The multi-vector part of BGE-M3 (https://huggingface.co/papers/2402.03216), as FlagEmbedding computes it: no
    markers, no expansion, a projection with bias, and a vector for each token but `<s>`.

    Args:
        folder (`Path`):
            The folder, with `colbert_linear.pt`.
        tokenizer (`str`, *optional*):
            Where the tokenizer is, if not in the folder.
        lengths:
            `query_length`, `document_length`; both are 512 by default, as in FlagEmbedding. The released model takes
            up to 8192.

    Returns:
        [`Checkpoint`] of a [`ColBERTXLMRModel`].

    Raises:
        ValueError: If the head or another weight is missing.
    """
    if not (folder / HEAD).is_file():
        raise ValueError(f"`{folder}` has no `{HEAD}`, so the projection is missing.")
    head, encoder, tokenizer = read_pickle(folder / HEAD), load_encoder(folder), load_tokenizer(tokenizer or folder)
    if not isinstance(head, dict) or set(head) != {"weight", "bias"}:
        raise ValueError(f"`{folder / HEAD}` must hold `weight` and `bias`, got {sorted(head)}.")
    model = ColBERTXLMRModel(
        ColBERTXLMRConfig(
            encoder_config=encoder_fields(encoder.config),
            embedding_dim=len(head["weight"]),
            projection_bias=True,
            use_markers=False,
            query_expansion="none",
            skip_punctuation=False,
            skip_ids=[tokenizer.cls_token_id],
            query_skip_ids=[tokenizer.cls_token_id],
            **{"query_length": LENGTH, "document_length": LENGTH, **lengths},
        )
    )
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    fill(model, {**weights, **{f"linear.{name}": value for name, value in head.items()}}, folder)
    notes = [
        "FlagEmbedding divides a score by the number of the query's vectors; the order of documents is the same.",
        "BGE-M3's dense and sparse heads are left out: the dense one is that of the same folder converted as "
        "sentence-transformers.",
    ]
    return Checkpoint(model, make_processor(ColBERTXLMRProcessor, tokenizer, model.config), notes)


__all__ = ["HEAD", "read_bge_m3"]
