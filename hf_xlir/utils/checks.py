"""Checks of arguments. Each error says what was expected and what was given."""

from numbers import Integral

import numpy as np
import torch


def check_integer(name, value, minimum=1):
    """`value` as an `int`; a `ValueError` unless it is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        expected = "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"
        raise ValueError(f"`{name}` must be {expected}, got {value!r}.")
    return int(value)


def check_positive(name, value):
    """`value`; a `ValueError` unless it is a number above 0."""
    if not value > 0:  # not NaN either
        raise ValueError(f"`{name}` must be positive, got {value!r}.")
    return value


def check_choice(name, value, choices):
    """`value`; a `ValueError` unless it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return value


def check_finite(what, values, hint=""):
    """A `ValueError` if an array or tensor has NaN or infinite values; `what` is the subject of the sentence."""
    finite = values.isfinite() if isinstance(values, torch.Tensor) else np.isfinite(values)
    if not finite.all():
        raise ValueError(f"{what} have NaN or infinite values.{hint and ' '}{hint}")


def as_list(value):
    """`value` as a list: one string becomes `[value]`, and `None` becomes `[]`."""
    return [value] if isinstance(value, str) else list(value or ())


def quoted(names):
    """Names for a message: "`a`, `b`"."""
    return ", ".join(f"`{name}`" for name in names)


__all__ = ["as_list", "check_choice", "check_finite", "check_integer", "check_positive", "quoted"]
