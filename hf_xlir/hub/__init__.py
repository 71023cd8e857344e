"""Sharing: model cards, indexes as repositories, and other libraries' checkpoints."""

import importlib


# Publishing pulls in datasets and the indexes, which those who only want a card should not wait for.
_LAZY = {
    "build_model_card": ".model_card",
    "convert_checkpoint": ".convert",
    "detect_format": ".convert",
    "load_index_from_hub": ".publish",
    "push_index_to_hub": ".publish",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY])


__all__ = [
    "build_model_card",
    "convert_checkpoint",
    "detect_format",
    "load_index_from_hub",
    "push_index_to_hub",
]
