"""Tables of series: every label set of a pair of families, at one level of detail."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from exporter.metrics.carried import NOTHING_CARRIED, CarriedCounts, CarriedOver, CarriedSeries, Labels
from exporter.metrics.series import Series
from exporter.model.reason import USERSPACE_SPACES, NameReason
from exporter.model.records import Cell, ThreadKey, VcpuRecord
from exporter.model.vm import Vcpu


class SeriesTable:
    """All series of one pair of families (counter and histogram) at one level of detail.

    With `userspace` the series count exits to the VMM, which have no class; without it, exits from guest mode.
    A new series takes its counts out of `carried`, the counts of an earlier process or configuration.
    """

    def __init__(
        self, level: str, name: NameReason, *, userspace: bool, carried: CarriedOver = NOTHING_CARRIED
    ) -> None:
        self._level = level
        self._vcpu_level = level == "vcpu"
        self._unmatched = {
            labels: CarriedCounts(exits, sum_ns, counts, parts)
            for its_level, to_vmm, labels, exits, sum_ns, counts, parts in carried.series
            if (its_level, to_vmm) == (level, userspace)
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
        """Store the values of a record. Every call for one thread must pass the same `vcpu`."""
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
        """Return the cells of a thread at its last update; none if it had no update."""
        return self._seen.get(key, ((), []))[0]

    def forget(self, keys: Iterable[ThreadKey]) -> None:
        """Remove threads. A series ends with its last thread, and keeps the counts of the others until then."""
        for key in keys:
            for number, series in enumerate(self._seen.pop(key, ((), []))[1]):
                if series is not None and series.retire(key, number):
                    del self._series[series.labels]

    def continue_from(self, earlier: SeriesTable) -> None:
        """Continue each series from its total in `earlier`, if `earlier` has the series."""
        for labels, series in self._series.items():
            if labels in earlier._series:
                series.continue_from(earlier._series[labels])

    def carried_over(self) -> list[CarriedSeries]:
        """Return the counts carried over from ended threads, including unmatched ones."""
        held = {labels: series.carried for labels, series in self._series.items() if series.carried}
        return [
            (self._level, self._userspace, labels, *counts) for labels, counts in {**self._unmatched, **held}.items()
        ]

    def drop_unmatched(self) -> None:
        """Drop the carried counts that no series has taken."""
        self._unmatched.clear()

    def _series_of(self, key: ThreadKey, vcpu: Vcpu, cell: Cell) -> Series | None:
        if (cell.space in USERSPACE_SPACES) != self._userspace:
            return None
        reason = self._name(cell.space, cell.code)
        owner = owner_labels(key, vcpu, vcpu_level=self._vcpu_level)
        labels = (*owner, reason.name) if self._userspace else (*owner, *reason)
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = Series(labels, self._unmatched.pop(labels, None))
        return series


class TotalsTable:
    """The counts of one member of VcpuTotals, by the rules of SeriesTable.

    At level vm, a count is the sum over all threads, including ended ones.
    """

    def __init__(self, member: str, level: str, carried: CarriedOver = NOTHING_CARRIED) -> None:
        self.member = member
        self._vcpu_level = level == "vcpu"
        self._unmatched = dict(carried.totals.get(member, ()))
        self._threads: dict[ThreadKey, tuple[Labels, int]] = {}
        self._carried: dict[Labels, int] = {}

    @property
    def labels(self) -> Labels:
        """Label names."""
        return ("pid", "tid", "vm", "vcpu") if self._vcpu_level else ("pid", "vm")

    def update(self, record: VcpuRecord, vcpu: Vcpu) -> None:
        """Store the value of a record."""
        count = getattr(record.totals, self.member)
        if count is None:
            return
        labels = owner_labels(record.key, vcpu, vcpu_level=self._vcpu_level)
        self._threads[record.key] = (labels, count)
        if labels in self._unmatched:
            self._carried[labels] = self._carried.get(labels, 0) + self._unmatched.pop(labels)

    def forget(self, keys: Iterable[ThreadKey]) -> None:
        """Remove threads."""
        removed = [self._threads.pop(key) for key in keys if key in self._threads]
        present = {labels for labels, _ in self._threads.values()} if removed else set()
        for labels, count in removed:
            self._carried[labels] = self._carried.get(labels, 0) + count
        for labels in [labels for labels in self._carried if removed and labels not in present]:
            del self._carried[labels]

    def continue_from(self, earlier: TotalsTable) -> None:
        """Continue each label set from its value in `earlier`, if `earlier` has it."""
        then, now = earlier.sums(), self.sums()
        for labels in then.keys() & now.keys():
            self._carried[labels] = self._carried.get(labels, 0) + then[labels] - now[labels]

    def carried_over(self) -> list[tuple[Labels, int]]:
        """Return the counts carried over from ended threads, including unmatched ones."""
        return [*{**self._unmatched, **self._carried}.items()]

    def drop_unmatched(self) -> None:
        """Drop the carried counts that no thread has taken."""
        self._unmatched.clear()

    def sums(self) -> dict[Labels, int]:
        """The count of each label set."""
        sums = dict(self._carried)
        for labels, count in self._threads.values():
            sums[labels] = sums.get(labels, 0) + count
        return sums


def owner_labels(key: ThreadKey, vcpu: Vcpu, *, vcpu_level: bool) -> Labels:
    """Return the label values that identify a vCPU: pid, tid, vm, vcpu. At level vm they identify a VM: pid, vm."""
    pid = str(key.pid)
    return (pid, str(key.tid), vcpu.vm.name, vcpu.index) if vcpu_level else (pid, vcpu.vm.name)
