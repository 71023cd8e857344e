"""Public names that are imported at first use."""

import importlib
import sys


def lazy_exports(package, targets):
    """
    The `__getattr__`, `__dir__` and `__all__` of a package that imports its names at first use.

    `targets` maps each public name to the module that defines it, such as `{"retrieve": ".retrieval"}`.
    """

    def __getattr__(name):
        if name not in targets:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(targets[name], package), name)

    def __dir__():
        return sorted({*vars(sys.modules[package]), *targets})

    return __getattr__, __dir__, sorted(targets)


__all__ = ["lazy_exports"]
