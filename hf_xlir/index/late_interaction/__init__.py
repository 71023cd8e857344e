"""The late-interaction index: token vectors, exact or compressed, that change while they are searched."""

from .index import LateInteractionIndex


__all__ = ["LateInteractionIndex"]
