"""Checkpoints of other libraries, converted in both directions."""

from ..utils.lazy import lazy_exports


_LAZY = {
    "FORMATS": ".conversion",
    "TARGETS": ".conversion",
    "Conversion": ".conversion",
    "convert_checkpoint": ".conversion",
    "detect_format": ".conversion",
    "export_checkpoint": ".conversion",
    "read_checkpoint": ".conversion",
}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _LAZY)
