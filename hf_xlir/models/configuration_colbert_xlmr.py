"""ColBERT-XLMR configuration."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_retriever import RetrieverConfig


@strict
class ColBERTXLMRConfig(RetrieverConfig):
    r"""
    Configuration of [`ColBERTXLMRModel`]: late interaction (https://huggingface.co/papers/2004.12832) over a
    multilingual encoder, as in DR.DECR (https://huggingface.co/papers/2112.08185).

    Every setting that changes an embedding is a field of this class and is saved with the model.
    [`ColBERTXLMRProcessor.from_config`] builds the matching processor.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*):
            The encoder, of any type that `AutoModel` builds. Defaults to XLM-R base.
        embedding_dim (`int`, *optional*, defaults to 128):
            Size of a token embedding, after a linear projection.
        projection_bias (`bool`, *optional*, defaults to `False`):
            Whether the projection has a bias. BGE-M3's has one.
        query_length (`int`, *optional*, defaults to 32):
            Token ids of a query: `<s>`, marker, pieces, `</s>`, then expansion.
        document_length (`int`, *optional*, defaults to 180):
            Most token ids of a document: `<s>`, marker, pieces, `</s>`.
        query_marker_id, document_marker_id (`int`, *optional*):
            Ids after `<s>` that mark queries and documents. `None` means the published 9748 and 9749 or, if the
            vocabulary is too small for them, its last two ordinary pieces.
        use_markers (`bool`, *optional*, defaults to `True`):
            Whether texts have markers. BGE-M3's have none.
        query_expansion (`"pad"`, `"mask"` or `"none"`, *optional*, defaults to `"pad"`):
            How a short query is filled up to `query_length`: with padding that is scored (DR.DECR), with mask tokens
            that are scored (ColBERT), or not at all.
        attend_to_expansion (`bool`, *optional*, defaults to `False`):
            Whether other tokens attend to the expansion. In the published systems they do not.
        skip_punctuation (`bool`, *optional*, defaults to `True`):
            Whether scores leave out document tokens that are one ASCII punctuation mark, alone or after a word
            boundary, as in the published systems. Other marks (`。`, `،`) count.
        skip_ids, query_skip_ids (`list[int]`, *optional*):
            Further token ids that scores leave out, in documents and in queries.
        query_prompt, document_prompt (`str`, *optional*, defaults to `""`):
            Text between the marker and every query or document.
        mask_id_zero (`bool`, *optional*, defaults to `False`):
            Reproduces the published DR.DECR code, whose mask tests for id 0. In XLM-R this is `<s>`, which then never
            counts, while document padding does: the vectors of a document depend on its batch. Only for checkpoints
            trained that way.

    Example:
    ```python
    >>> from hf_xlir import ColBERTXLMRConfig, ColBERTXLMRModel

    >>> config = ColBERTXLMRConfig(encoder_config={"model_type": "xlm-roberta", "num_hidden_layers": 2})
    >>> model = ColBERTXLMRModel(config)
    >>> model.config.embedding_dim
    128

    ```
    """

    model_type = "colbert_xlmr"

    embedding_dim: int = 128
    projection_bias: bool = False
    use_markers: bool = True
    query_marker_id: int | None = None
    document_marker_id: int | None = None
    query_expansion: Literal["pad", "mask", "none"] = "pad"
    attend_to_expansion: bool = False
    skip_punctuation: bool = True
    skip_ids: list[int] | None = None
    query_skip_ids: list[int] | None = None
    mask_id_zero: bool = False


__all__ = ["ColBERTXLMRConfig"]
