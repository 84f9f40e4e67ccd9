"""The kernel's buckets in the two forms that Prometheus knows: cumulative bounds, and native spans."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from exporter.families import FIRST_BOUND
from exporter.series import BUCKETS, COUNTS

ZERO_THRESHOLD = 2.0 ** (FIRST_BOUND / 4)
"""Upper bound of bucket 0, which is the native zero bucket."""

_WORD = COUNTS.size // BUCKETS
_MAX_GAP = 2
"""Empty buckets that cost less inside a span than a new span costs."""


@dataclass(frozen=True)
class Classic:
    """Classic bounds: powers of two seconds, `octaves` apart, and the native bucket that each ends with."""

    bounds: tuple[float, ...]
    last: tuple[int, ...]

    @staticmethod
    def of(factor: int, least: float, most: float) -> Classic:
        """Bounds `factor` (2, 4 or 16) apart that take in the range from `least` to `most` seconds.

        They are multiples of each other's grid: bounds of a larger factor are among those of a smaller.
        """
        step = factor.bit_length() - 1
        lowest, highest = FIRST_BOUND // 4, (FIRST_BOUND + BUCKETS - 2) // 4
        octaves = [
            octave
            for octave in range(lowest, highest + 1)
            if octave % step == 0 and least < 2.0 ** (octave + step) and 2.0 ** (octave - step) < most
        ]
        return Classic(tuple(2.0**octave for octave in octaves), tuple(4 * octave - FIRST_BOUND for octave in octaves))

    def cumulate(self, buckets: bytes) -> list[int]:
        """Counts up to each bound, then all: as many as there are bounds, and one."""
        cumulated = list(accumulate(COUNTS.unpack(buckets)))
        counts = [cumulated[last] for last in self.last]
        counts.append(cumulated[-1])
        return counts


def nonzero(buckets: bytes) -> tuple[int, tuple[int, ...]]:
    """The number of the first bucket that holds something, and the counts from there to the last that does."""
    first = (len(buckets) - len(buckets.lstrip(b"\0"))) // _WORD
    end = (len(buckets.rstrip(b"\0")) + _WORD - 1) // _WORD
    if first >= end:
        return 0, ()
    return first, tuple(memoryview(buckets).cast("Q")[first:end])


def spans(first: int, counts: tuple[int, ...]) -> list[tuple[int, list[int]]]:
    """Split counts into native spans: (native index of the first bucket, counts). Bucket 0 must not be among them.

    Native index k of schema 2 ends at 2^(k/4) s; the overflow bucket becomes the one above 2^12 s.
    """
    found: list[tuple[int, list[int]]] = []
    gap = 0
    for number, count in enumerate(counts, first + FIRST_BOUND):
        if not count:
            gap += 1
            continue
        if found and gap <= _MAX_GAP:
            found[-1][1].extend([0] * gap)
            found[-1][1].append(count)
        else:
            found.append((number, [count]))
        gap = 0
    return found
