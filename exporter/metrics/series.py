"""Series from records: which cells make up which label set, and what they add up to.

A series lives as long as a thread that it counts, live or lingering, and carries what the renderers cached for it, so
that the caches are freed with the vCPU. A scrape touches only what changed since the last one: a vCPU's cells are
one tuple, the same object until an event, and its members are compared one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from operator import add, sub
from typing import Any, NamedTuple

from exporter.model.buckets import BUCKETS, COUNTS
from exporter.model.reason import NameReason, Reason, Space
from exporter.model.records import Cell, ThreadKey, VcpuRecord
from exporter.model.vm import Vcpu

Labels = tuple[str, ...]

LEVELS = ("vcpu", "vm", "off")
OTHER = "other"


_USERSPACE = (Space.USERSPACE, Space.USERSPACE_ERRNO)


class ReasonFilter:
    """Names with the allow and deny lists applied: what is left out is summed under reason="other"."""

    def __init__(self, lookup: NameReason, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        self._lookup = lookup
        self._allow, self._deny = frozenset(allow), frozenset(deny)

    def __call__(self, space: int, code: int) -> Reason:
        """The reason's labels; its class stays what it is."""
        reason = self._lookup(space, code)
        if reason.name in self._deny or (self._allow and reason.name not in self._allow):
            return Reason(OTHER, reason.klass)
        return reason


class _Base(NamedTuple):
    """What a series holds besides its cells. Less than nothing where it is made of more cells than it once was."""

    exits: int
    sum_ns: int
    counts: tuple[int, ...]

    def plus(self, cell: Cell) -> _Base:
        counts = tuple(map(add, self.counts, COUNTS.unpack(cell.buckets)))
        return _Base(self.exits + cell.exits, self.sum_ns + cell.sum_ns, counts)


_NOTHING = _Base(0, 0, (0,) * BUCKETS)


SeriesBase = tuple[str, bool, Labels, int, int, tuple[int, ...]]
"""Level, whether exits to the VMM, labels; exits, nanoseconds, counts by bucket."""


class CarriedOver(NamedTuple):
    """What series hold of threads that are gone, or from before a reload: as lists, to be written down."""

    series: Sequence[SeriesBase] = ()
    guest: Sequence[tuple[Labels, int]] = ()
    """Labels; nanoseconds in the guest."""

    @classmethod
    def of(cls, read: Any) -> CarriedOver:
        """From JSON. Raises ValueError, TypeError."""
        series, guest = read
        return cls(
            [
                (level, userspace, tuple(labels), exits, sum_ns, tuple(counts))
                for level, userspace, labels, exits, sum_ns, counts in series
            ],
            [(tuple(labels), ns) for labels, ns in guest],
        )


NOTHING_CARRIED = CarriedOver()


class Series:
    """One label set: the sum of one cell or more, and of threads that are gone."""

    __slots__ = (
        *("_cells", "base", "labels", "labels_message", "labels_text"),
        *("counter_line", "counter_message", "histogram_lines", "histogram_message"),
    )

    def __init__(self, labels: Labels, base: _Base | None = None) -> None:
        self.labels = labels
        # What the renderers made of the labels, for as long as the series lives; theirs to set.
        self.labels_text: bytes | None = None
        self.labels_message: bytes | None = None
        self._cells: dict[tuple[ThreadKey, int], Cell] = {}
        self.base = base
        """What it holds besides its cells."""
        self._drop_rendered()

    def _drop_rendered(self) -> None:
        # What the renderers made of the present values; theirs to set.
        self.counter_line: bytes | None = None
        self.histogram_lines: bytes | None = None
        self.counter_message: bytes | None = None
        self.histogram_message: bytes | None = None

    def put(self, key: ThreadKey, number: int, cell: Cell) -> None:
        """Set the value of one thread's cell."""
        self._cells[key, number] = cell
        self._drop_rendered()

    def retire(self, key: ThreadKey, number: int) -> bool:
        """Let a cell go, and keep its value while there are others: a sum must not fall. True if none is left."""
        cell = self._cells.pop((key, number))
        if self._cells:
            self.base = (self.base or _NOTHING).plus(cell)
        return not self._cells

    def continue_from(self, earlier: Series) -> None:
        """Have the total be what that of `earlier` is, and grow from there."""
        then, now = earlier.total(), self.total()
        if (then.exits, then.sum_ns, then.buckets) != (now.exits, now.sum_ns, now.buckets):
            base = self.base or _NOTHING
            difference = map(sub, COUNTS.unpack(then.buckets), COUNTS.unpack(now.buckets))
            self.base = _Base(
                base.exits + then.exits - now.exits,
                base.sum_ns + then.sum_ns - now.sum_ns,
                tuple(map(add, base.counts, difference)),
            )
            self._drop_rendered()

    def total(self) -> Cell:
        """The sum of all cells; its space and code mean nothing where there are several."""
        cells = iter(self._cells.values())
        first = next(cells)
        if self.base is None and len(self._cells) == 1:
            return first
        total = (self.base or _NOTHING).plus(first)
        for cell in cells:
            total = total.plus(cell)
        return Cell(first.space, first.code, total.exits, total.sum_ns, COUNTS.pack(*total.counts))


def sums(cells: Iterable[Cell]) -> tuple[int, int]:
    """Exits from the guest, and those to the VMM."""
    exits = userspace = 0
    for cell in cells:
        if cell.space in _USERSPACE:
            userspace += cell.exits
        else:
            exits += cell.exits
    return exits, userspace


class SeriesTable:
    """All series of one pair of families (counter and histogram) at one level of detail.

    `userspace` tells the exits to the VMM from all exits; they have no class. Of `bases` each series claims its own.
    """

    def __init__(self, level: str, name: NameReason, *, userspace: bool, bases: CarriedOver = NOTHING_CARRIED) -> None:
        self._level = level
        self._vcpu_level = level == "vcpu"
        self._unclaimed = {
            labels: _Base(exits, sum_ns, counts)
            for its, to_vmm, labels, exits, sum_ns, counts in bases.series
            if (its, to_vmm) == (level, userspace)
        }
        self._name = name
        self._userspace = userspace
        self._series: dict[Labels, Series] = {}
        self._seen: dict[ThreadKey, tuple[Sequence[Cell], list[Series | None]]] = {}

    @property
    def labels(self) -> Labels:
        """Label names, in the order of Series.labels."""
        vcpu = ("pid", "tid", "vm", "vcpu") if self._vcpu_level else ("pid", "vm")
        return (*vcpu, "reason") if self._userspace else (*vcpu, "reason", "class")

    def series(self) -> Collection[Series]:
        """All series, each label set once."""
        return self._series.values()

    def update(self, record: VcpuRecord, vcpu: Vcpu) -> None:
        """Take a record's values over. Of one thread every call must pass the same `vcpu`."""
        cells = record.cells
        old, series = self._seen.get(record.key, ((), []))
        if cells is old:
            return
        known = len(old)
        for number, cell in enumerate(cells):
            if number >= known:
                series.append(self._series_of(record.key, vcpu, cell))
            elif cell is old[number]:
                continue
            target = series[number]
            if target is not None:
                target.put(record.key, number, cell)
        self._seen[record.key] = (cells, series)

    def seen(self, key: ThreadKey) -> Sequence[Cell]:
        """A thread's cells as of its last update; none if there was no update."""
        return self._seen.get(key, ((), []))[0]

    def forget(self, keys: Iterable[ThreadKey]) -> None:
        """Let threads go. A series goes with its last thread, and keeps the sum of the others until then."""
        for key in keys:
            for number, series in enumerate(self._seen.pop(key, ((), []))[1]):
                if series is not None and series.retire(key, number):
                    del self._series[series.labels]

    def continue_from(self, earlier: SeriesTable) -> None:
        """Have the series that both have go on from their values there."""
        for labels, series in self._series.items():
            if labels in earlier._series:
                series.continue_from(earlier._series[labels])

    def bases(self) -> list[SeriesBase]:
        """What its series hold of what is gone, the unclaimed too."""
        held = {labels: series.base for labels, series in self._series.items() if series.base}
        return [(self._level, self._userspace, labels, *base) for labels, base in {**self._unclaimed, **held}.items()]

    def drop_unmatched(self) -> None:
        """Let go of what no series has claimed."""
        self._unclaimed.clear()

    def _series_of(self, key: ThreadKey, vcpu: Vcpu, cell: Cell) -> Series | None:
        if (cell.space in _USERSPACE) != self._userspace:
            return None
        reason = self._name(cell.space, cell.code)
        pid = str(key.pid)
        who = (pid, str(key.tid), vcpu.vm.name, vcpu.index) if self._vcpu_level else (pid, vcpu.vm.name)
        labels = (*who, reason.name) if self._userspace else (*who, *reason)
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = Series(labels, self._unclaimed.pop(labels, None))
        return series


class GuestTime:
    """Time in guest mode, by the same rules: a sum over threads at VM level, which does not fall when one goes."""

    def __init__(self, level: str, bases: CarriedOver = NOTHING_CARRIED) -> None:
        self._vcpu_level = level == "vcpu"
        self._unclaimed = dict(bases.guest)
        self._threads: dict[ThreadKey, tuple[Labels, int]] = {}
        self._base: dict[Labels, int] = {}

    @property
    def labels(self) -> Labels:
        """Label names."""
        return ("pid", "tid", "vm", "vcpu") if self._vcpu_level else ("pid", "vm")

    def update(self, record: VcpuRecord, vcpu: Vcpu) -> None:
        """Take a record's value over."""
        pid = str(record.key.pid)
        who = (pid, str(record.key.tid), vcpu.vm.name, vcpu.index) if self._vcpu_level else (pid, vcpu.vm.name)
        self._threads[record.key] = (who, record.guest_ns)
        if who in self._unclaimed:
            self._base[who] = self._base.get(who, 0) + self._unclaimed.pop(who)

    def forget(self, keys: Iterable[ThreadKey]) -> None:
        """Let threads go."""
        gone = [self._threads.pop(key) for key in keys if key in self._threads]
        left = {labels for labels, _ in self._threads.values()} if gone else set()
        for labels, ns in gone:
            self._base[labels] = self._base.get(labels, 0) + ns
        for labels in [labels for labels in self._base if gone and labels not in left]:
            del self._base[labels]

    def continue_from(self, earlier: GuestTime) -> None:
        """Have the label sets that both have go on from their values there."""
        then, now = earlier.totals(), self.totals()
        for labels in then.keys() & now.keys():
            self._base[labels] = self._base.get(labels, 0) + then[labels] - now[labels]

    def bases(self) -> list[tuple[Labels, int]]:
        """What it holds of what is gone, the unclaimed too."""
        return [*{**self._unclaimed, **self._base}.items()]

    def drop_unmatched(self) -> None:
        """Let go of what no thread has claimed."""
        self._unclaimed.clear()

    def totals(self) -> dict[Labels, int]:
        """Nanoseconds by label set."""
        totals = dict(self._base)
        for labels, ns in self._threads.values():
            totals[labels] = totals.get(labels, 0) + ns
        return totals
