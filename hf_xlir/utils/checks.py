"""Checks of arguments. Each raises an error that says what was expected and what was got."""

from numbers import Integral


def check_integer(name, value, minimum=1):
    """`value` as an `int`, or a `ValueError` if it is not an integer of at least `minimum`; `name` is the argument."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        expected = "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"
        raise ValueError(f"`{name}` must be {expected}, got {value!r}.")
    return int(value)


def check_choice(name, value, choices):
    """`value`, or a `ValueError` if it is not among the choices."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {list(choices)}, got {value!r}.")
    return value


__all__ = ["check_choice", "check_integer"]
