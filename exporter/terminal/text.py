"""Strings for a terminal: measured in columns, cut; and histograms as a row of blocks."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from exporter.model.buckets import octave_counts

BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " .:-=+*%#"


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


def sparkline(buckets: Mapping[int, int], columns: int, blocks: str = BLOCKS) -> str:
    """The buckets as a row of bars, the highest full; a bar that is not empty shows. `columns` at most 24."""
    bars = octave_counts(buckets, columns)
    most = max(bars, default=0)
    steps = len(blocks) - 1
    # Rounded up: one exit in a million still shows.
    return "".join(blocks[-(-bar * steps // most)] if bar else blocks[0] for bar in bars)
