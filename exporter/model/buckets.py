"""The bucket scheme of every duration: the bounds are exact powers of 2^(1/4) seconds.

Histograms on the screen use octaves.

Bucket 0 holds durations up to 2^-23 s. Bucket i holds durations above the bound of bucket i - 1, up to
2^((i - 92) / 4) s inclusive. The last bucket holds durations above 2^12 s. The loader passes these numbers to the C
file.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import isqrt

BUCKETS = 142
"""Number of buckets: one for underflow, 140 with finite bounds, one for overflow."""

SCHEMA = 2
"""Native histogram schema: four buckets an octave, bounds 2^(k/4)."""

FIRST_BOUND = -92
"""k of the first finite bound: bucket 0 has every duration up to 2^(-92/4) = 2^-23 s."""

ZERO_THRESHOLD = 2.0 ** (FIRST_BOUND / 4)
"""Upper bound of bucket 0, in seconds. Bucket 0 is the zero bucket of native histograms."""

COUNTS = struct.Struct(f"={BUCKETS}Q")
"""The counts of all buckets, in the format of a cell."""

FIRST_OCTAVE, LAST_OCTAVE = -20, 4
"""Drawn histograms go from 2^-20 s (1 us) to 2^4 s (16 s)."""
OCTAVES = LAST_OCTAVE - FIRST_OCTAVE


def bound_ns(number: int) -> int | None:
    """The longest duration, in whole ns, that bucket `number` holds; None for the last bucket, which has no bound."""
    if number == BUCKETS - 1:
        return None
    exponent = number + FIRST_BOUND
    # The fourth root of 10^36 * 2^exponent, rounded down, with integers only.
    power = 10**36 << exponent if exponent >= 0 else 10**36 >> -exponent
    return isqrt(isqrt(power))


def octave_counts(buckets: Mapping[int, int], columns: int = OCTAVES) -> list[int]:
    """Return the counts of 1 to 24 columns.

    The first column also has all shorter durations, the last column all longer ones.
    """
    counts = [0] * columns
    for number, value in buckets.items():
        # A bucket ends at 2^(k / 4) s, inclusive. The octave above 2^n s has the buckets with k from 4n + 1 to 4n + 4.
        octave = (number + FIRST_BOUND - 1) // 4 - FIRST_OCTAVE
        counts[min(max(octave, 0), OCTAVES - 1) * columns // OCTAVES] += value
    return counts
