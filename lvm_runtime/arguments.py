"""Checks of single arguments: a wrong type or value is an InvalidInput that says what came and what was expected."""

from __future__ import annotations

import math
import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from lvm_runtime.errors import InvalidInput


def shown(value: Any) -> str:
    """Return what came for an error: 99 characters of it in one line, or its type where it has no text.

    >>> shown([0] * 1000)[:12], shown(10**5000)
    ('[0, 0, 0, 0,', 'of type int')
    """
    try:
        return " ".join(repr(value).split())[:99]
    except Exception:  # Python writes no number of more than 4,300 digits
        return f"of type {type(value).__name__}"


def whole_number(value: Any, name: str, *, least: int = 1, most: int | None = None) -> int:
    """Return `value`, an integer of Python or numpy within the bounds, as an int."""
    integer = isinstance(value, Integral) and not isinstance(value, bool)  # an array of 2.7 has `__index__` too
    if not integer or not least <= int(value) or (most is not None and int(value) > most):
        bounds = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise InvalidInput(f"{name} is {shown(value)}, expected a whole number {bounds}")
    return int(value)


def finite_number(value: Any, name: str, *, example: str) -> float:
    """Return `value`, a finite number of 0 or more, as a float."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    try:
        if number and math.isfinite(value) and value >= 0:
            return float(value)
    except OverflowError:  # a whole number that no float can hold
        pass
    raise InvalidInput(f"{name} is {shown(value)}, expected a finite number of 0 or more, such as {example}")


def text(value: Any, name: str, *, example: str) -> str:
    """Return `value`, which has to be a string."""
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is {shown(value)}, expected a name such as {example}")
    return value


def file_name(value: Any, name: str) -> Path:
    """Return `value`, a string or path that may name a file."""
    if not isinstance(value, str | os.PathLike) or "\0" in str(value):
        raise InvalidInput(f"{name} is {shown(value)}, no name of a file; expected a path")
    return Path(value)


def instance(value: Any, kind: type, name: str) -> None:
    """Raise InvalidInput unless `value` is a `kind`."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise InvalidInput(f"{name} is {shown(value)}, expected {article} {kind.__name__}")
