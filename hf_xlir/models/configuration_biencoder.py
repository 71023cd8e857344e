"""BiEncoder configuration."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_retriever import RetrieverConfig


@strict
class BiEncoderConfig(RetrieverConfig):
    r"""
    Configuration of [`BiEncoderModel`]: one vector a text (DPR, https://huggingface.co/papers/2004.04906).

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*):
            The encoder, any family that `AutoModel` builds. Defaults to XLM-R base.
        embedding_dim (`int`, *optional*):
            Size of an embedding after a linear projection and LayerNorm (the retriever of
            https://huggingface.co/papers/2012.04584). `None`, the default, is the encoder's hidden size without them.
        projection_norm (`bool`, *optional*, defaults to `True`):
            Whether LayerNorm follows the projection. DPR and sentence-transformers project without.
        projection_activation (`"tanh"`, `"relu"` or `"gelu"`, *optional*):
            Function between the projection and what follows it, as some sentence-transformers models have.
        project_tokens (`bool`, *optional*, defaults to `False`):
            Whether each token is projected before the pooling, as in the retrievers that the FiD repository released.
            Otherwise the pooled vector is.
        share_encoders (`bool`, *optional*, defaults to `True`):
            Whether queries and documents go through one tower. DPR's released models use two.
        pooling (`"cls"`, `"mean"` or `"last4_mean"`, *optional*, defaults to `"cls"`):
            First token (DPR), mean over the real tokens, or that mean over the mean of the last four hidden states
            (in an encoder of less than four layers, the embedding layer's counts among them).
        normalize (`bool`, *optional*, defaults to `False`):
            Whether embeddings have L2 norm 1, so that the inner product is a cosine.
        query_length (`int`, *optional*, defaults to 64):
            Most token ids of a query, special tokens included.
        document_length (`int`, *optional*, defaults to 256):
            Most token ids of a document, special tokens included; 256 as in DPR.
        query_prompt, document_prompt (`str`, *optional*, defaults to `""`):
            Text put in front of every query or document, as some models were trained with (`"query: "`).
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
