"""What VMs exited for since an earlier look at the page, with no more of that look kept than sums by VM and reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from exporter.model.records import ThreadKey
from exporter.readings import reading as document
from exporter.readings.difference import ReasonDifference, between
from exporter.readings.grouping import grouped
from exporter.readings.reading import Reading, VcpuReading

FORGET_SECONDS = 60.0
"""A look so long ago is no longer compared with, and not kept."""
_SPAN_SECONDS = 3.5
"""Rates are over this at least, where there is a look so old: two intervals of the page's script."""
_APART_SECONDS = 1.5


@dataclass(frozen=True)
class Totals:
    """Sums of the vCPUs that lived at one look, since counting began."""

    seen: float
    taken_ns: int
    since_ns: int
    rows: Mapping[tuple[int, str], ReasonDifference]
    """By pid and reason."""
    alive: frozenset[ThreadKey]
    ended: frozenset[ThreadKey]
    """Those whose counts no longer change: they are in no sum, and are left out of the next look too."""


@dataclass(frozen=True)
class Change:
    """What happened since an earlier look or, where `whole`, since counting began."""

    elapsed_ns: int
    whole: bool
    threads: Sequence[VcpuReading]
    """vCPUs that lived meanwhile, each with the name that any vCPU of its process has."""
    rows: Sequence[ReasonDifference]
    """Exits by VM and reason."""


class Looks:
    """The last few looks at the page. Times are those of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._kept: list[Totals] = []  # the oldest first

    def __len__(self) -> int:
        return len(self._kept)

    def forget(self, now: float) -> None:
        """Drop all, unless somebody looked lately."""
        if self._kept and now - self._kept[-1].seen >= FORGET_SECONDS:
            self._kept = []

    def add(self, reading: Reading, now: float) -> Change:
        """Take in a look; returns what happened since an earlier one."""
        self.forget(now)
        threads = _named(reading.vcpus)
        then = self._earlier(reading, now)
        if then:
            threads = [thread for thread in threads if thread.key not in then.ended]
        rows = _by_vm(reading, threads)
        alive = [thread for thread in threads if thread.alive]
        if not self._kept or now - self._kept[-1].seen >= _APART_SECONDS:
            kept = rows if len(alive) == len(threads) else _by_vm(reading, alive)
            living = frozenset(thread.key for thread in alive)
            ended = frozenset(thread.key for thread in reading.vcpus if not thread.alive)
            self._kept.append(Totals(now, reading.taken_ns, reading.since_ns, kept, living, ended))
        if then is None:
            return Change(max(0, reading.taken_ns - reading.since_ns), True, threads, list(rows.values()))
        elapsed_ns = reading.taken_ns - then.taken_ns
        count = _vcpus(threads)
        less = (_less(row, then.rows.get(key), elapsed_ns, count[row.pid]) for key, row in rows.items())
        changed = [row for row in less if row.exits or row.buckets or row.time_ns]
        return Change(elapsed_ns, False, threads, changed)

    def _earlier(self, reading: Reading, now: float) -> Totals | None:
        """The newest look that is old enough, else the oldest; None where nothing can be compared with it."""
        old_enough = [look for look in self._kept if now - look.seen >= _SPAN_SECONDS]
        if old_enough:
            self._kept = self._kept[len(old_enough) - 1 :]
        if not self._kept:
            return None
        then = self._kept[0]
        present = {thread.key for thread in reading.vcpus}
        # A vCPU that is missing now (it ended, and linger is short) took what it counted with it.
        if then.since_ns != reading.since_ns or then.taken_ns >= reading.taken_ns or not then.alive <= present:
            self._kept = []
            return None
        return then


def _named(threads: Iterable[VcpuReading]) -> list[VcpuReading]:
    """Each with its VM's name, though it be known of another vCPU of the process only: one VM is shown once."""
    threads = sorted(threads, key=lambda thread: thread.alive)  # where a pid was used again, the living name it
    names = {thread.key.pid: (thread.vm, thread.vmm) for thread in threads if thread.vm is not None}
    named = []
    for thread in threads:
        vm, vmm = names.get(thread.key.pid, (None, thread.vmm))
        named.append(thread if (vm, vmm) == (thread.vm, thread.vmm) else thread._replace(vm=vm, vmm=vmm))
    return named


def _by_vm(reading: Reading, threads: Sequence[VcpuReading]) -> dict[tuple[int, str], ReasonDifference]:
    whole = between(document.nothing(reading.since_ns), replace(reading, vcpus=threads))
    return {(row.pid, row.reason): row for row in grouped(whole, by="vm")}


def _vcpus(threads: Iterable[VcpuReading]) -> Mapping[int, int]:
    count: dict[int, int] = {}
    for thread in threads:
        count[thread.key.pid] = count.get(thread.key.pid, 0) + 1
    return count


def _less(now: ReasonDifference, then: ReasonDifference | None, elapsed_ns: int, vcpus: int) -> ReasonDifference:
    """Sums, and so the difference of two is that of what was summed; with the length of what lies between."""
    span = replace(now, elapsed_ns=elapsed_ns, span_ns=elapsed_ns * vcpus)
    if then is None:
        return span
    buckets = {number: value - then.buckets.get(number, 0) for number, value in now.buckets.items()}
    return replace(
        span,
        exits=max(0, now.exits - then.exits),
        sum_ns=max(0, now.sum_ns - then.sum_ns),
        time_ns=max(0, now.time_ns - then.time_ns),
        buckets={number: value for number, value in buckets.items() if value > 0},
    )
