"""Counts that a series holds besides the cells of its present threads, in the form in which they are written down."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Any, NamedTuple

from exporter.model.buckets import BUCKETS, COUNTS
from exporter.model.records import Cell

Labels = tuple[str, ...]


class CarriedCounts(NamedTuple):
    """Counts of one series, from ended threads or from before a reload.

    May be negative after a reload that regroups cells.
    """

    exits: int
    sum_ns: int
    counts: tuple[int, ...]

    def plus(self, cell: Cell) -> CarriedCounts:
        """These counts and those of a cell."""
        counts = tuple(map(add, self.counts, COUNTS.unpack(cell.buckets)))
        return CarriedCounts(self.exits + cell.exits, self.sum_ns + cell.sum_ns, counts)


NO_COUNTS = CarriedCounts(0, 0, (0,) * BUCKETS)

CarriedSeries = tuple[str, bool, Labels, int, int, tuple[int, ...]]
"""Level, whether it counts exits to the VMM, labels; then exits, nanoseconds and counts as in CarriedCounts."""


class CarriedOver(NamedTuple):
    """All counts that the series of a process hold besides the cells of present threads."""

    series: Sequence[CarriedSeries] = ()
    guest: Sequence[tuple[Labels, int]] = ()
    """Labels, and nanoseconds in the guest."""

    @classmethod
    def of(cls, read: Any) -> CarriedOver:
        """From JSON lists. Raises ValueError or TypeError where they have another shape."""
        series, guest = read
        return cls(
            [
                (level, userspace, tuple(labels), exits, sum_ns, tuple(counts))
                for level, userspace, labels, exits, sum_ns, counts in series
            ],
            [(tuple(labels), ns) for labels, ns in guest],
        )


NOTHING_CARRIED = CarriedOver()
