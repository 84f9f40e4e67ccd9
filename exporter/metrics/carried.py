"""Counts that a series carries over from ended threads, in the form in which the ledger stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import add
from types import MappingProxyType
from typing import Any, NamedTuple

from exporter.model.buckets import BUCKETS, COUNTS
from exporter.model.records import NO_PARTS, Cell, TimeParts

Labels = tuple[str, ...]


class CarriedCounts(NamedTuple):
    """Counts of one series, from ended threads or from before a reload.

    May be negative after a reload that regroups cells.
    """

    exits: int
    sum_ns: int
    counts: tuple[int, ...]
    parts: TimeParts = NO_PARTS

    def plus(self, cell: Cell) -> CarriedCounts:
        """Return the sum of these counts and a cell."""
        counts = tuple(map(add, self.counts, COUNTS.unpack(cell.buckets)))
        parts = self.parts.plus(cell.parts)
        return CarriedCounts(self.exits + cell.exits, self.sum_ns + cell.sum_ns, counts, parts)


NO_COUNTS = CarriedCounts(0, 0, (0,) * BUCKETS)

CarriedSeries = tuple[str, bool, Labels, int, int, tuple[int, ...], TimeParts]
"""The level; True for exits to the VMM; the label values; then the members of CarriedCounts."""


class CarriedOver(NamedTuple):
    """The carried counts of all series of a process."""

    series: Sequence[CarriedSeries] = ()
    totals: Mapping[str, Sequence[tuple[Labels, int]]] = MappingProxyType({})
    """Label values and count of each series, by the member of VcpuTotals."""

    @classmethod
    def of(cls, read: Any) -> CarriedOver:
        """Make the carried counts from JSON values.

        Raises ValueError, TypeError or AttributeError if they have another shape.
        """
        series, totals = read
        return cls(
            [
                (
                    *(level, userspace, _labels(labels), *_whole([exits, sum_ns], 2), _whole(counts, BUCKETS)),
                    TimeParts(*_whole(parts, 3)),
                )
                for level, userspace, labels, exits, sum_ns, counts, parts in series
            ],
            {
                member: [(_labels(labels), *_whole([count], 1)) for labels, count in each]
                for member, each in totals.items()
            },
        )


def _labels(values: Any) -> Labels:
    if set(map(type, values)) - {str}:
        raise ValueError("a label that is no text")
    return tuple(values)


def _whole(counts: Any, number: int) -> tuple[Any, ...]:
    if len(counts) != number or set(map(type, counts)) != {int}:
        raise ValueError(f"expected {number} whole numbers")
    return tuple(counts)


NOTHING_CARRIED = CarriedOver()
