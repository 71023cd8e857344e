"""The dense index: one vector per passage, searched by FAISS."""

from .index import DenseIndex


__all__ = ["DenseIndex"]
