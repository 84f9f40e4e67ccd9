"""The bucket scheme of every duration: exact powers of 2^(1/4) seconds, and the octaves that histograms are drawn of.

Bucket 0 holds durations up to 2^-23 s. Bucket i holds those above the bound of bucket i - 1, up to 2^((i - 92) / 4) s
inclusive. The last bucket holds all that are longer than 2^12 s. The loader passes these numbers to the C file.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import isqrt

BUCKETS = 142
"""Buckets of a histogram: underflow, 140 with finite bounds, overflow."""

SCHEMA = 2
"""Native histogram schema: four buckets an octave, bounds 2^(k/4)."""

FIRST_BOUND = -92
"""k of the first finite bound: bucket 0 is everything up to 2^(-92/4) = 2^-23 seconds."""

ZERO_THRESHOLD = 2.0 ** (FIRST_BOUND / 4)
"""Upper bound of bucket 0 in seconds; bucket 0 is the native zero bucket."""

COUNTS = struct.Struct(f"={BUCKETS}Q")
"""The counts of all buckets as they lie in a cell."""

FIRST_OCTAVE, LAST_OCTAVE = -20, 4
"""Histograms are drawn from 2^-20 s (1 us) to 2^4 s (16 s)."""
OCTAVES = LAST_OCTAVE - FIRST_OCTAVE


def bound_ns(number: int) -> int | None:
    """The longest duration, in whole ns, that bucket `number` holds; None for the last bucket, which has no bound."""
    if number == BUCKETS - 1:
        return None
    exponent = number + FIRST_BOUND
    # The fourth root of 10^36 * 2^exponent, rounded down: integers throughout.
    power = 10**36 << exponent if exponent >= 0 else 10**36 >> -exponent
    return isqrt(isqrt(power))


def octave_counts(buckets: Mapping[int, int], columns: int = OCTAVES) -> list[int]:
    """Counts by column, at most 24 columns. The first column also holds what is shorter, the last what is longer."""
    counts = [0] * columns
    for number, value in buckets.items():
        # Bucket i ends at 2^((i + FIRST_BOUND) / 4) s, inclusive: -4 * 20 is the last below 2^-20 s.
        octave = (number + FIRST_BOUND - 1) // 4 - FIRST_OCTAVE
        counts[min(max(octave, 0), OCTAVES - 1) * columns // OCTAVES] += value
    return counts
