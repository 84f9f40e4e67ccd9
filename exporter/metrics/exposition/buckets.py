"""The kernel's buckets in the two forms of Prometheus: cumulative counts at classic bounds, and native spans."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import itemgetter

from exporter.config.options import Classic
from exporter.model.buckets import BUCKETS, COUNTS, FIRST_BOUND

_MAX_GAP = 2
"""A gap of at most this many empty buckets is cheaper inside a span than a new span."""


class ClassicBounds:
    """Classic bounds: powers of two, in seconds. `last` has the number of the last bucket below each bound."""

    def __init__(self, octaves: Sequence[int]) -> None:
        self.bounds = tuple(2.0**octave for octave in octaves)
        self.last = tuple(4 * octave - FIRST_BOUND for octave in octaves)
        self._pick = itemgetter(*self.last, BUCKETS - 1)  # a loop would take most of a text page's time

    @staticmethod
    def of(classic: Classic) -> ClassicBounds:
        """Bounds that are `classic.factor` (2, 4 or 16) apart and cover the range from `classic.min` to `classic.max`.

        The bounds of a larger factor are among those of a smaller one. Only the outermost bounds may
        differ: they may lie further out.
        """
        step = classic.factor.bit_length() - 1
        lowest, highest = FIRST_BOUND // 4, (FIRST_BOUND + BUCKETS - 2) // 4
        return ClassicBounds(
            [
                octave
                for octave in range(lowest, highest + 1)
                if octave % step == 0 and classic.min < 2.0 ** (octave + step) and 2.0 ** (octave - step) < classic.max
            ]
        )

    def cumulate(self, buckets: bytes) -> tuple[int, ...]:
        """Return the cumulative count at each bound, and then the count of all buckets."""
        cumulated: tuple[int, ...] = self._pick(tuple(accumulate(COUNTS.unpack(buckets))))
        return cumulated


def nonzero(buckets: bytes) -> tuple[int, list[int]]:
    """Return the number of the first bucket that is not empty, and the counts up to the last one that is not empty."""
    # The buckets are taken as one large number (both architectures are little-endian). Its bit length gives the last
    # bucket, and its lowest bit the first one: three operations, without a loop over the buckets.
    bits = int.from_bytes(buckets, "little")
    if not bits:
        return 0, []
    first, end = ((bits & -bits).bit_length() - 1) // 64, (bits.bit_length() + 63) // 64
    return first, memoryview(buckets).cast("Q")[first:end].tolist()


def spans(first: int, counts: list[int]) -> list[tuple[int, list[int]]]:
    """Split counts into native spans: (native index of the first bucket, counts). Bucket 0 must not be among them.

    The bucket with native index k of schema 2 ends at 2^(k/4) s. The overflow bucket gets the index above 2^12 s.
    """
    if 0 not in counts:
        return [(first + FIRST_BOUND, counts)] if counts else []
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
