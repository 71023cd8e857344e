"""Helpers for every folder: files, argument checks, lazy imports, progress bars, folders of arrays, resumed work."""

from .lazy import lazy_exports


_LAZY = {
    "folder_lock": ".files",
    "process_group": ".processes",
    "progress_bar": ".progress",
    "replacing": ".files",
    "write_text": ".files",
}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _LAZY)
