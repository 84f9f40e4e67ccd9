"""Text that is safe to print, and numbers in few characters: for the terminal, and for the page at /."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def printable(text: str) -> str:
    """Return `text` with an escape for each character that does not print or has no width. `text` may be hostile.

    str.isprintable() is false for control, format (bidirectional overrides) and unassigned characters, and for
    surrogates. Combining marks are escaped, too, because a terminal draws them over their neighbours.
    """
    return "".join(
        character
        if character.isprintable() and unicodedata.category(character) not in ("Mn", "Me")
        else character.encode("unicode_escape").decode()
        for character in text
    )


def count(value: float) -> str:
    """Return a number in at most five characters: 7, 12.3, 999, 1.23k, 45.6M."""
    return "".join(_scaled(value, ("", "k", "M", "G", "T", "P")))


def seconds(ns: float | None) -> str:
    """Return a time, given in ns, in at most six characters: 119ns, 1.23us, 45.6ms, 17.2s, 4096s. None is "-"."""
    return "-" if ns is None else "".join(time(ns))


def time(ns: float) -> tuple[str, str]:
    """Return a time, given in ns, as a number of at most five characters and its unit: ns, us, ms, s or d."""
    if ns >= 999.5e9:
        return (f"{ns / 1e9:.0f}", "s") if ns < 99999.5e9 else (f"{ns / 86400e9:.0f}", "d")
    return _scaled(ns, ("ns", "us", "ms", "s"))


def _scaled(value: float, units: Sequence[str]) -> tuple[str, str]:
    unit = 0
    while value >= 999.5 and unit < len(units) - 1:
        value /= 1000
        unit += 1
    if unit == 0 and value == int(value):
        return f"{value:.0f}", units[0]
    places = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{places}f}", units[unit]
