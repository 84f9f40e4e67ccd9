"""Reads JSON that others may have forged: its memory and its time are bounded before the first value is made."""

from __future__ import annotations

import json
import re
from typing import Any

_BEFORE_A_VALUE = (b",", b"[", b"{")
_LONG_NUMBER = re.compile(rb"[0-9]{400}")
"""Python reads a whole number in time that grows with the square of its digits. A float has at most 309."""


def loads(data: bytes, max_values: int) -> Any:
    """Return the value of a JSON text with at most `max_values` values, about 100 bytes each. Raises ValueError.

    The number is counted before anything is parsed. Commas and brackets in strings count too.
    """
    if sum(map(data.count, _BEFORE_A_VALUE)) > max_values:
        raise ValueError(f"more than {max_values} values")
    if _LONG_NUMBER.search(data):
        raise ValueError("a number of more than 400 digits")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None


def text(value: object, limit: int) -> str:
    """Check that a value is text of at most `limit` characters. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {type(value).__name__}")
    if len(value) > limit:
        raise ValueError(f"text of {len(value)} characters (limit {limit})")
    return value


def whole(value: object, low: int, high: int) -> int:
    """Check that a value is a whole number from `low` to `high`. Raises ValueError."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"expected a whole number from {low} to {high}, found {str(value)[:20]}")
    return value
