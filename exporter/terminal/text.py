"""Strings for a terminal: escaped, measured in columns, cut; and numbers in few characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from exporter.families import FIRST_BOUND

BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " .:-=+*%#"


def printable(text: str) -> str:
    """What does not print, or has no width of its own, is written as an escape: `text` is anybody's.

    str.isprintable() refuses control, format (bidirectional overrides) and unassigned characters and surrogates;
    combining marks would draw over their neighbours.
    """
    return "".join(
        character
        if character.isprintable() and unicodedata.category(character) not in ("Mn", "Me")
        else character.encode("unicode_escape").decode()
        for character in text
    )


def width(text: str) -> int:
    """Columns of a printable text: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def cut(text: str, columns: int) -> str:
    """The beginning of a printable text, `columns` wide at most."""
    while width(text) > columns:
        text = text[: min(len(text) - 1, columns)]
    return text


def left(text: str, columns: int) -> str:
    """Cut, and filled on the right: exactly `columns` wide."""
    text = cut(text, columns)
    return text + " " * (columns - width(text))


def right(text: str, columns: int) -> str:
    """Cut, and filled on the left."""
    text = cut(text, columns)
    return " " * (columns - width(text)) + text


def count(value: float) -> str:
    """A number in five characters at most: 7, 12.3, 999, 1.23k, 45.6M."""
    return _scaled(value, ("", "k", "M", "G", "T", "P"), 1000.0)


def seconds(ns: float | None) -> str:
    """A time in six characters at most: 119ns, 1.23us, 45.6ms, 17.2s, 4096s; "-" is none."""
    if ns is None:
        return "-"
    if ns >= 999.5e9:
        return f"{ns / 1e9:.0f}s" if ns < 99999.5e9 else f"{ns / 86400e9:.0f}d"
    return _scaled(ns, ("ns", "us", "ms", "s"), 1000.0)


def _scaled(value: float, units: Sequence[str], factor: float) -> str:
    unit = 0
    while value >= 999.5 and unit < len(units) - 1:
        value /= factor
        unit += 1
    if unit == 0 and value == int(value):
        return f"{value:.0f}{units[0]}"
    places = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{places}f}{units[unit]}"


SPARK_FIRST, SPARK_LAST = -20, 4
"""Octaves of a sparkline: from 2^-20 s (1 us) to 2^4 s (16 s); what is shorter or longer is in the outermost."""


def sparkline(buckets: Mapping[int, int], columns: int, blocks: str = BLOCKS) -> str:
    """The buckets as a row of bars, the highest full; a bar that is not empty shows. `columns` at most 24."""
    octaves = SPARK_LAST - SPARK_FIRST
    bars = [0] * columns
    for number, value in buckets.items():
        # Bucket i ends at 2^((i + FIRST_BOUND) / 4) s, inclusive: -4 * 20 is the last below 2^-20 s.
        octave = (number + FIRST_BOUND - 1) // 4 - SPARK_FIRST
        bars[min(max(octave, 0), octaves - 1) * columns // octaves] += value
    most = max(bars, default=0)
    steps = len(blocks) - 1
    # Rounded up: one exit in a million still shows.
    return "".join(blocks[-(-bar * steps // most)] if bar else blocks[0] for bar in bars)
