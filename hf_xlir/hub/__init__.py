"""Cards of models, systems and indexes, and uploads to the Hub."""

from ..utils.lazy import lazy_exports


_LAZY = {"build_model_card": ".cards", "family_cards": ".family_cards", "write_family_cards": ".family_cards"}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _LAZY)
