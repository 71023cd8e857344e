"""BiEncoder configuration."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_retriever import RetrieverConfig


@strict
class BiEncoderConfig(RetrieverConfig):
    r"""
    Configuration of [`BiEncoderModel`]: one vector per text (DPR, https://huggingface.co/papers/2004.04906).

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*):
            The encoder, of any type that `AutoModel` builds. Defaults to XLM-R base.
        embedding_dim (`int`, *optional*):
            Size of an embedding after a linear projection and LayerNorm (the retriever of
            https://huggingface.co/papers/2012.04584). `None`, the default, means no projection: embeddings have the
            encoder's hidden size.
        projection_norm (`bool`, *optional*, defaults to `True`):
            Whether LayerNorm follows the projection. DPR and sentence-transformers do not use it.
        projection_activation (`"tanh"`, `"relu"` or `"gelu"`, *optional*):
            Function after the projection, which some sentence-transformers models have.
        project_tokens (`bool`, *optional*, defaults to `False`):
            Whether each token is projected before the pooling, as in the retrievers that the FiD repository released,
            instead of the pooled vector.
        share_encoders (`bool`, *optional*, defaults to `True`):
            Whether queries and documents share one tower. DPR's released models have two.
        pooling (`"cls"`, `"mean"` or `"last4_mean"`, *optional*, defaults to `"cls"`):
            First token (DPR), mean over the real tokens, or the mean over both the real tokens and the last four
            hidden states. The embedding layer's states are among the four if the encoder has fewer than four layers.
        normalize (`bool`, *optional*, defaults to `False`):
            Whether embeddings have L2 norm 1, so that the inner product is a cosine.
        query_length (`int`, *optional*, defaults to 64):
            Most token ids of a query, special tokens included.
        document_length (`int`, *optional*, defaults to 256):
            Most token ids of a document, special tokens included; 256 as in DPR.
        query_prompt, document_prompt (`str`, *optional*, defaults to `""`):
            Text before every query or document, for models trained with one (`"query: "`).
    """

    model_type = "biencoder"

    embedding_dim: int | None = None
    projection_norm: bool = True
    projection_activation: Literal["tanh", "relu", "gelu"] | None = None
    project_tokens: bool = False
    share_encoders: bool = True
    pooling: Literal["cls", "mean", "last4_mean"] = "cls"
    normalize: bool = False
    query_length: int = 64
    document_length: int = 256


__all__ = ["BiEncoderConfig"]
