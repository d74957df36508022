"""Sizes that are powers of two, and checks of parameters."""

from typing import Any


__all__ = ["check_power", "check_positive", "is_power_of_two", "log2"]


def is_power_of_two(value: Any) -> bool:
    """Whether a parameter is an integer that is a power of two."""
    return isinstance(value, int) and value > 0 and value & (value - 1) == 0


def log2(value: int) -> int:
    """Give the exponent of a power of two."""
    return value.bit_length() - 1


def check_positive(**parameters: Any) -> None:
    """Refuse parameters that are no positive integers."""
    for name, value in parameters.items():
        if not isinstance(value, int) or value < 1:
            raise TypeError(f"{_words(name)} must be a positive integer, not {value!r}")


def check_power(**parameters: Any) -> None:
    """Refuse parameters that are no powers of two."""
    for name, value in parameters.items():
        if not is_power_of_two(value):
            raise TypeError(f"{_words(name)} must be a power of two, not {value!r}")


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
