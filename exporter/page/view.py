"""What the page says, as plain values: VMs in their order, the longest exits that vCPUs are in, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from exporter.model.drops import not_counted
from exporter.page.totals import Change
from exporter.readings.difference import IDLE, ReasonDifference
from exporter.readings.grouping import ordered
from exporter.readings.reading import Reading, VcpuReading

STUCK_NS = 10**9
"""A vCPU that is out of the guest for longer than this, and not idle, is listed."""


class Health(NamedTuple):
    """The exporter about itself."""

    up: bool
    collect_errors: int
    lookups_pending: int


class Stuck(NamedTuple):
    """A vCPU that has been in one exit for long."""

    vm: str
    vcpu: str
    tid: int
    reason: str
    age_ns: int


class Rest(NamedTuple):
    """Rows or VMs that are not shown one by one."""

    number: int
    lost: float
    rate: float


@dataclass(frozen=True)
class VmView:
    """One VM: `rows` by time lost, idle reasons last."""

    pid: int
    name: str
    vmm: str
    vcpus: int
    alive: bool
    elapsed_ns: int
    rows: Sequence[ReasonDifference]

    @property
    def lost(self) -> float:
        """Time out of the guest that was not idle, in vCPUs: 0.37 is what one vCPU lost in 37 % of the time."""
        return min(float(self.vcpus), sum(lost(row) for row in self.rows if not row.idle))

    @property
    def rate(self) -> float:
        """Exits per second."""
        return sum(row.rate for row in self.rows)


@dataclass(frozen=True)
class PageView:
    """All that is on the page."""

    health: Health
    whole: bool
    elapsed_ns: int
    vms: Sequence[VmView]
    stuck: Sequence[Stuck]
    losses: Sequence[str]

    @property
    def total(self) -> Rest:
        """All VMs together."""
        return together(self.vms)


def lost(row: ReasonDifference) -> float:
    """Time out of the guest by time that passed: vCPUs."""
    return row.time_ns / row.elapsed_ns if row.elapsed_ns else 0.0


def together(parts: Iterable[VmView]) -> Rest:
    """The sum of VMs."""
    parts = list(parts)
    return Rest(len(parts), sum(vm.lost for vm in parts), sum(vm.rate for vm in parts))


def view(reading: Reading, change: Change, health: Health) -> PageView:
    """Everything of a collection that the page shows, before it is cut to what a person reads."""
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
    for pid, of in threads.items():
        last = of[-1]
        living = sum(thread.alive for thread in of)
        vms.append(
            VmView(
                pid,
                last.vm_label,
                last.vmm,
                living or len(of),
                bool(living),
                change.elapsed_ns,
                ordered(rows.get(pid, [])),
            )
        )
    return sorted(vms, key=lambda vm: (-vm.lost, -vm.rate, vm.name, vm.pid))


def _stuck(threads: Iterable[VcpuReading]) -> list[Stuck]:
    found = [
        Stuck(thread.vm_label, thread.vcpu, thread.key.tid, current.reason, current.age_ns)
        for thread in threads
        if thread.alive and (current := thread.in_progress) and current.klass != IDLE and current.age_ns > STUCK_NS
    ]
    return sorted(found, key=lambda stuck: (-stuck.age_ns, stuck.tid))
