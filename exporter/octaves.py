"""Buckets folded to octaves from 1 us to 16 s: what a histogram is drawn of, in text and as SVG."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.families import FIRST_BOUND

FIRST, LAST = -20, 4
"""From 2^-20 s (1 us) to 2^4 s (16 s)."""
OCTAVES = LAST - FIRST


def folded(buckets: Mapping[int, int], columns: int = OCTAVES) -> list[int]:
    """Counts by column, `columns` at most 24; what is shorter or longer is in the outermost."""
    bars = [0] * columns
    for number, value in buckets.items():
        # Bucket i ends at 2^((i + FIRST_BOUND) / 4) s, inclusive: -4 * 20 is the last below 2^-20 s.
        octave = (number + FIRST_BOUND - 1) // 4 - FIRST
        bars[min(max(octave, 0), OCTAVES - 1) * columns // OCTAVES] += value
    return bars
