"""Strings for a terminal: their width in columns, cut and filled to a width; histograms as a row of bars."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from exporter.model.buckets import octave_counts

BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " .:-=+*%#"


def width(text: str) -> int:
    """Width of a printable text in columns. East Asian wide characters take two columns."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def cut(text: str, columns: int) -> str:
    """The beginning of a printable text, at most `columns` wide."""
    while width(text) > columns:
        text = text[: min(len(text) - 1, columns)]
    return text


def left(text: str, columns: int) -> str:
    """The text at the left, cut or filled with blanks to exactly `columns`."""
    text = cut(text, columns)
    return text + " " * (columns - width(text))


def right(text: str, columns: int) -> str:
    """The text at the right, cut or filled with blanks to exactly `columns`."""
    text = cut(text, columns)
    return " " * (columns - width(text)) + text


def sparkline(buckets: Mapping[int, int], columns: int, blocks: str = BLOCKS) -> str:
    """The buckets as a row of bars, in at most 24 columns. The highest bar is full; every bar above 0 is visible."""
    bars = octave_counts(buckets, columns)
    most = max(bars, default=0)
    steps = len(blocks) - 1
    # Heights are rounded up, so that one exit in a million is still visible.
    return "".join(blocks[-(-bar * steps // most)] if bar else blocks[0] for bar in bars)
