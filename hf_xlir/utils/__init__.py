"""Helpers for every folder: files, argument checks, lazy imports, progress bars, folders of arrays, resumed work."""

from .lazy import lazy_exports


__getattr__, __dir__, __all__ = lazy_exports(__name__, {"process_group": ".processes"})
