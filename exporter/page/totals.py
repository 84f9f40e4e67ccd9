"""The exits of each VM since an earlier request for the page.

Rates need an earlier reading. Only its sums by VM and reason are kept, because a whole reading is large.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from exporter.model.records import ThreadKey
from exporter.readings.difference import ReasonDifference, added, between, grown
from exporter.readings.grouping import grouped
from exporter.readings.reading import KINDS, Reading, VcpuReading, nothing

FORGET_SECONDS = 60.0
"""Totals are dropped if the page was not requested for this long."""
_SPAN_SECONDS = 3.5
"""Rates are averaged over at least this time (two refreshes of the page), as soon as totals of this age exist."""
_APART_SECONDS = 1.5
"""Shortest time between two readings whose totals are kept."""


RowKey = tuple[int, str, str]
"""Pid, kind and reason."""


@dataclass(frozen=True)
class Totals:
    """Sums since counting began, over the vCPUs that were alive in one reading."""

    requested: float
    """When the page was requested, on the clock of History."""
    taken_ns: int
    since_ns: int
    rows: Mapping[RowKey, ReasonDifference]
    alive: frozenset[ThreadKey]
    ended: frozenset[ThreadKey]
    """vCPUs that had ended. No sum includes them. Their counts no longer change, so later differences omit them."""


@dataclass(frozen=True)
class Change:
    """The exits since an earlier reading."""

    elapsed_ns: int
    whole: bool
    """True if there was no earlier reading: these are all exits since counting began."""
    threads: Sequence[VcpuReading]
    """vCPUs that were alive at some time since then. All vCPUs of a process have the same VM name."""
    rows: Sequence[ReasonDifference]
    """One row for each VM, kind and reason."""


class History:
    """Totals of the last few readings. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._kept: list[Totals] = []  # the oldest first

    def __len__(self) -> int:
        return len(self._kept)

    def forget(self, now: float) -> None:
        """Drop all totals if the page was not requested for FORGET_SECONDS."""
        if self._kept and now - self._kept[-1].requested >= FORGET_SECONDS:
            self._kept = []

    def add(self, reading: Reading, now: float) -> Change:
        """Add the reading for a request at `now`; returns the change since an earlier reading."""
        self.forget(now)
        threads = _named(reading.vcpus)
        then = self._earlier(reading, now)
        if then:
            threads = [thread for thread in threads if thread.key not in then.ended]
        rows = _by_vm(reading, threads)
        self._keep(reading, threads, rows, now)
        if then is None:
            return Change(max(0, reading.taken_ns - reading.since_ns), True, threads, list(rows.values()))
        elapsed_ns = reading.taken_ns - then.taken_ns
        vcpus = Counter(thread.key.pid for thread in threads)
        differences = (_minus(row, then.rows.get(key), elapsed_ns, vcpus[row.pid]) for key, row in rows.items())
        changed = [row for row in differences if row.exits or row.buckets or row.time_ns]
        return Change(elapsed_ns, False, threads, changed)

    def _keep(
        self,
        reading: Reading,
        threads: Sequence[VcpuReading],
        rows: Mapping[RowKey, ReasonDifference],
        now: float,
    ) -> None:
        """Keep totals of the reading, unless the last totals are younger than _APART_SECONDS."""
        if self._kept and now - self._kept[-1].requested < _APART_SECONDS:
            return
        alive = [thread for thread in threads if thread.alive]
        if len(alive) < len(threads):
            rows = _by_vm(reading, alive)
        living = frozenset(thread.key for thread in alive)
        ended = frozenset(thread.key for thread in reading.vcpus if not thread.alive)
        self._kept.append(Totals(now, reading.taken_ns, reading.since_ns, rows, living, ended))

    def _earlier(self, reading: Reading, now: float) -> Totals | None:
        """Return the newest totals that are older than _SPAN_SECONDS, else the oldest totals.

        Return None if no totals are kept, or if the reading cannot be compared with them.
        """
        old_enough = [totals for totals in self._kept if now - totals.requested >= _SPAN_SECONDS]
        if old_enough:
            self._kept = self._kept[len(old_enough) - 1 :]
        if not self._kept:
            return None
        then = self._kept[0]
        present = {thread.key for thread in reading.vcpus}
        # If an ended vCPU is missing from the reading (linger is short), its counts are missing from the new sums.
        if then.since_ns != reading.since_ns or then.taken_ns >= reading.taken_ns or not then.alive <= present:
            self._kept = []
            return None
        return then


def _named(threads: Iterable[VcpuReading]) -> list[VcpuReading]:
    """Give all vCPUs of a process the VM name that is known for one of them, so that a VM is shown only once."""
    # Live vCPUs come last: if a pid was reused, the name of the live vCPU is used.
    threads = sorted(threads, key=lambda thread: thread.alive)
    names = {thread.key.pid: (thread.vm, thread.vmm) for thread in threads if thread.vm is not None}
    named = []
    for thread in threads:
        vm, vmm = names.get(thread.key.pid, (None, thread.vmm))
        named.append(thread if (vm, vmm) == (thread.vm, thread.vmm) else thread._replace(vm=vm, vmm=vmm))
    return named


def _by_vm(reading: Reading, threads: Sequence[VcpuReading]) -> dict[RowKey, ReasonDifference]:
    """Sums of the threads since counting began."""
    whole = between(nothing(reading.since_ns), replace(reading, vcpus=threads))
    return {(row.pid, kind, row.reason): row for kind in KINDS for row in grouped(whole, kind, by="vm")}


def _minus(now: ReasonDifference, then: ReasonDifference | None, elapsed_ns: int, vcpus: int) -> ReasonDifference:
    """The difference of two sums, which equals the sum of the differences. Each vCPU contributes `elapsed_ns`."""
    row = replace(now, elapsed_ns=elapsed_ns, span_ns=elapsed_ns * vcpus)
    if then is None:
        return row
    sum_ns = max(0, now.sum_ns - then.sum_ns)
    return replace(
        row,
        exits=max(0, now.exits - then.exits),
        sum_ns=sum_ns,
        parts=grown(now.parts, then.parts, sum_ns),
        time_ns=max(0, now.time_ns - then.time_ns),
        buckets=added(now.buckets, then.buckets),
    )
