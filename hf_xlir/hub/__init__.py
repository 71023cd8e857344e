"""Cards of models, indexes and systems, and uploads to the Hub."""

from ..utils.lazy import lazy_exports


_LAZY = {
    "build_model_card": ".cards",
    "check_card": ".metadata",
    "family_cards": ".cards",
    "push_files": ".upload",
    "render_card": ".cards",
    "write_family_cards": ".cards",
}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _LAZY)
