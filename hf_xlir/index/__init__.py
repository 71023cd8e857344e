"""Embeddings on disk, and the indexes that search them."""

from .bm25 import BM25Index
from .dense import add_dense_index
from .dense_index import DenseIndex
from .embed import embed_passages, embed_queries
from .embeddings import DenseEmbeddings, QueryEmbeddings, TokenEmbeddings
from .faiss_import import check_distributions
from .late_interaction import LateInteractionIndex
from .retrieval import retrieve


check_distributions()  # now, and not when an index is built after hours of embedding

__all__ = [
    "BM25Index",
    "DenseEmbeddings",
    "DenseIndex",
    "LateInteractionIndex",
    "QueryEmbeddings",
    "TokenEmbeddings",
    "add_dense_index",
    "embed_passages",
    "embed_queries",
    "retrieve",
]
