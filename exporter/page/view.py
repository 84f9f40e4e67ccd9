"""The content of the page as plain values: ranked VMs, vCPUs that stay in an exit, and problems."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from exporter.model.drops import not_counted
from exporter.model.records import NO_PARTS
from exporter.naming.vmm.registry import MOVING
from exporter.page.totals import Change
from exporter.readings.difference import IDLE, ReasonDifference
from exporter.readings.grouping import ordered
from exporter.readings.reading import EXIT, Reading, VcpuReading

STUCK_NS = 10**9
"""A vCPU that has been in one exit for longer than this, and is not idle, is listed."""

_NO_WORK = ("restart", "error_")
"""Returns that are no work of the VMM: a signal or an error ended KVM_RUN, perhaps while the vCPU was idle."""


class Health(NamedTuple):
    """The state of the exporter itself."""

    up: bool
    collect_errors: int
    lookups_pending: int


class Stuck(NamedTuple):
    """A vCPU that has been in one exit for a long time."""

    vm: str
    vcpu: str
    tid: int
    reason: str
    age_ns: int


class Sum(NamedTuple):
    """Several rows or VMs together."""

    number: int
    lost: float
    """vCPUs lost to exits."""
    rate: float
    """Exits per second."""


class TimeSplit(NamedTuple):
    """Where the time of a VM's completed exits went, in vCPUs. The first four are parts of its lost time."""

    waiting: float
    """The vCPUs' threads could run, but had no CPU."""
    asleep: float
    kernel: float
    """On a CPU, in the kernel."""
    vmm: float
    """On a CPU, in the VMM."""
    idle_waiting: float
    """Without a CPU after an interrupt ended the guest's idle time."""
    idle_asleep: float
    polling: float
    """On a CPU in the guest's idle time: the kernel polls for an interrupt."""


@dataclass(frozen=True)
class VmView:
    """One VM."""

    pid: int
    name: str
    vmm: str
    vcpus: int
    alive: bool
    elapsed_ns: int
    rows: Sequence[ReasonDifference]
    """Sorted by the time lost. Idle reasons come last."""
    split: TimeSplit | None
    """None where the exporter cannot tell."""

    @property
    def lost(self) -> float:
        """Time out of the guest that was not idle, in vCPUs: 0.37 is one vCPU that lost 37 % of the time."""
        return min(float(self.vcpus), sum(lost(row) for row in self.rows if not row.idle))

    @property
    def rate(self) -> float:
        """Exits per second."""
        return sum(row.rate for row in self.rows)


@dataclass(frozen=True)
class PageView:
    """Everything that the page can show."""

    health: Health
    whole: bool
    """True if the rates are averages since counting began."""
    elapsed_ns: int
    """The time that the rates are averaged over."""
    vms: Sequence[VmView]
    stuck: Sequence[Stuck]
    not_counted: Sequence[str]
    """Sentences about events that were not counted."""

    @property
    def waiting(self) -> float | None:
        """vCPUs that waited for a CPU, on the whole host; None where the exporter cannot tell."""
        known = [vm.split.waiting + vm.split.idle_waiting for vm in self.vms if vm.split]
        return sum(known) if known else None

    @property
    def total(self) -> Sum:
        """All VMs together."""
        return sum_of(self.vms)


def lost(row: ReasonDifference) -> float:
    """vCPUs lost: time out of the guest, divided by the time that passed."""
    return row.time_ns / row.elapsed_ns if row.elapsed_ns else 0.0


def spent(row: ReasonDifference, part_ns: int) -> float:
    """vCPUs that a part of the completed exits took."""
    return row.within(part_ns) / row.elapsed_ns if row.elapsed_ns else 0.0


def _split(rows: Sequence[ReasonDifference]) -> TimeSplit | None:
    """Split the time of a VM's reasons of both kinds."""
    if not rows or not all(row.parts for row in rows):
        return None
    waiting, asleep, on_cpu = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    vmm = 0.0
    for row in rows:
        parts = row.parts or NO_PARTS
        if row.kind == EXIT:
            waiting[row.idle] += spent(row, parts.wait)
            asleep[row.idle] += spent(row, parts.sleep)
            on_cpu[row.idle] += spent(row, row.sum_ns - parts.off)
        elif not row.idle and not row.reason.startswith(_NO_WORK):
            vmm += spent(row, max(0, parts.vmm - parts.off))
    vmm = min(vmm, on_cpu[False])
    return TimeSplit(waiting[False], asleep[False], on_cpu[False] - vmm, vmm, waiting[True], asleep[True], on_cpu[True])


def sum_of(vms: Sequence[VmView]) -> Sum:
    """The sum of VMs."""
    return Sum(len(vms), sum(vm.lost for vm in vms), sum(vm.rate for vm in vms))


def view(reading: Reading, change: Change, health: Health) -> PageView:
    """The content of the page, made of a reading and its change. It is not yet cut to the size of the page."""
    return PageView(
        health,
        change.whole,
        change.elapsed_ns,
        _ranked(change),
        _stuck(change.threads),
        not_counted(reading.counters),
    )


def _ranked(change: Change) -> list[VmView]:
    threads: dict[int, list[VcpuReading]] = {}
    for thread in change.threads:
        threads.setdefault(thread.key.pid, []).append(thread)
    rows: dict[int, list[ReasonDifference]] = {}
    for row in change.rows:
        rows.setdefault(row.pid, []).append(row)
    vms = []
    for pid, vcpus in threads.items():
        last = vcpus[-1]
        living = sum(thread.alive for thread in vcpus)
        vms.append(
            VmView(
                pid,
                last.vm_label,
                last.vmm,
                living or len(vcpus),
                bool(living),
                change.elapsed_ns,
                ordered(row for row in rows.get(pid, []) if row.kind == EXIT),
                _split(rows.get(pid, [])),
            )
        )
    return sorted(vms, key=lambda vm: (-vm.lost, -vm.rate, vm.name, vm.pid))


def _stuck(threads: Iterable[VcpuReading]) -> list[Stuck]:
    found = [
        Stuck(thread.vm_label, thread.vcpu, thread.key.tid, current.reason, current.age_ns)
        for thread in threads
        if thread.vmm not in MOVING
        and thread.alive
        and (current := thread.in_progress)
        and current.klass != IDLE
        and current.age_ns > STUCK_NS
    ]
    return sorted(found, key=lambda stuck: (-stuck.age_ns, stuck.tid))
