"""Series: the cells of one label set, and their sum.

A series exists while one of its threads is alive or lingers. The renderers cache their output on the series, so the
caches are freed with it. A scrape touches only the cells that changed since the last scrape: the cells of a vCPU are a
tuple that stays the same object until a cell changes. In the new tuple, only the changed cells are new objects.
"""

from __future__ import annotations

from operator import add, sub

from exporter.config.options import Reasons
from exporter.metrics.carried import NO_COUNTS, CarriedCounts, Labels
from exporter.model.buckets import COUNTS
from exporter.model.reason import NameReason, Reason
from exporter.model.records import NO_PARTS, Cell, ThreadKey, TimeParts

OTHER = "other"


class ReasonFilter:
    """Returns names of reasons. A reason that the lists `allow` and `deny` leave out gets the name "other"."""

    def __init__(self, lookup: NameReason, reasons: Reasons) -> None:
        self._lookup = lookup
        self._allow, self._deny = frozenset(reasons.allow), frozenset(reasons.deny)

    def __call__(self, space: int, code: int) -> Reason:
        """Return the labels of a reason. Its class stays the same, also with the name "other"."""
        reason = self._lookup(space, code)
        if reason.name in self._deny or (self._allow and reason.name not in self._allow):
            return Reason(OTHER, reason.klass)
        return reason


class Series:
    """One label set: the sum of its cells and of the counts carried over from ended threads."""

    __slots__ = (
        *("_cells", "carried", "labels", "labels_message", "labels_text"),
        *("counter_line", "counter_message", "histogram_lines", "histogram_message", "_parts"),
    )

    def __init__(self, labels: Labels, carried: CarriedCounts | None = None) -> None:
        self.labels = labels
        # Caches of the renderers, made from the labels. They stay valid while the series lives.
        self.labels_text: bytes | None = None
        self.labels_message: bytes | None = None
        self._cells: dict[tuple[ThreadKey, int], Cell] = {}
        self.carried = carried
        """Counts in addition to those of the cells. It is None for most series, which have no such counts."""
        self._drop_rendered()

    def _drop_rendered(self) -> None:
        # Caches of the renderers, made from the present values.
        self.counter_line: bytes | None = None
        self.histogram_lines: bytes | None = None
        self.counter_message: bytes | None = None
        self.histogram_message: bytes | None = None
        self._parts: TimeParts | None = None

    def put(self, key: ThreadKey, number: int, cell: Cell) -> None:
        """Set the value of one cell of a thread."""
        self._cells[key, number] = cell
        self._drop_rendered()

    def retire(self, key: ThreadKey, number: int) -> bool:
        """Remove a cell. Its value stays in the sum while the series has other cells, because the sum must not fall.

        Returns True if no cell is left.
        """
        cell = self._cells.pop((key, number))
        if self._cells:
            self.carried = (self.carried or NO_COUNTS).plus(cell)
        return not self._cells

    def continue_from(self, earlier: Series) -> None:
        """Continue from `earlier`'s total."""
        then, now = earlier.total(), self.total()
        if then[2:] != now[2:]:
            carried = self.carried or NO_COUNTS
            difference = map(sub, COUNTS.unpack(then.buckets), COUNTS.unpack(now.buckets))
            self.carried = CarriedCounts(
                carried.exits + then.exits - now.exits,
                carried.sum_ns + then.sum_ns - now.sum_ns,
                tuple(map(add, carried.counts, difference)),
                carried.parts.plus(then.parts).minus(now.parts),
            )
            self._drop_rendered()

    def total(self) -> Cell:
        """Return the sum of all cells. Its space and code have no meaning if the series has several cells."""
        cells = iter(self._cells.values())
        first = next(cells)
        if self.carried is None and len(self._cells) == 1:
            return first
        total = (self.carried or NO_COUNTS).plus(first)
        for cell in cells:
            total = total.plus(cell)
        return Cell(first.space, first.code, total.exits, total.sum_ns, COUNTS.pack(*total.counts), total.parts)

    def parts(self) -> TimeParts:
        """Return the parts of total(), without its buckets."""
        if self._parts is None:
            total = self.carried.parts if self.carried else NO_PARTS
            for cell in self._cells.values():
                total = total.plus(cell.parts)
            self._parts = total
        return self._parts
