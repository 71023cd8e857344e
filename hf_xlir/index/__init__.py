"""Encoders, embeddings on disk, the indexes that search them, and indexes as repositories on the Hub."""

from ..utils.lazy import lazy_exports
from .dense.faiss_index import check_distributions


_LAZY = {
    "BM25_TOKENIZERS": ".bm25",
    "BM25Index": ".bm25",
    "DenseEmbeddings": ".embeddings",
    "DenseIndex": ".dense.index",
    "Encoder": ".encoders",
    "FUSION_METHODS": ".fusion",
    "LateInteractionIndex": ".late_interaction.index",
    "PassageFilter": ".passage_filter",
    "QueryEmbeddings": ".embeddings",
    "SearchIndex": ".base",
    "TokenEmbeddings": ".embeddings",
    "add_dense_index": ".dense.index",
    "best_share": ".passage_filter",
    "bm25_tokenizer_for": ".bm25",
    "check_fusion": ".fusion",
    "embed_passages": ".embed",
    "embed_queries": ".embed",
    "fitting_rows": ".passage_filter",
    "fuse": ".fusion",
    "index_class": ".base",
    "index_problem": ".dense.faiss_index",
    "load_encoder": ".encoders",
    "load_index": ".base",
    "load_index_from_hub": ".sharing",
    "push_index_to_hub": ".sharing",
    "register_index": ".base",
    "retrieve": ".retrieval",
}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _LAZY)

check_distributions()  # now, and not when an index is built after hours of embedding
