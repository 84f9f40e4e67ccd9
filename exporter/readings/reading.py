"""A reading: one collection as plain values with names, and as the JSON document of /-/vcpus (docs/metrics.md).

It has every vCPU with every reason, including those that the options `level` and `reasons` leave out of /metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from exporter.model.reason import USERSPACE_SPACES, Reason
from exporter.model.records import Cell, Snapshot, ThreadKey, TimeParts, VcpuRecord
from exporter.model.vm import Vcpu

KINDS = EXIT, USERSPACE = "exit", "userspace"
"""Exits from guest mode, and returns of KVM_RUN to the VMM. A return can come without an exit."""


class ReasonReading(NamedTuple):
    """One reason of one vCPU: the exits, and the completed intervals by the number of their bucket."""

    kind: str
    reason: str
    klass: str
    exits: int
    sum_ns: int
    buckets: Mapping[int, int]
    parts: TimeParts | None
    """Where the time of the completed intervals went; None where the exporter cannot tell."""


class InProgress(NamedTuple):
    """The exit that a vCPU is in now."""

    reason: str
    klass: str
    age_ns: int


class VcpuReading(NamedTuple):
    """One vCPU thread: its totals since its first event. `vm` is None while the VM is being looked up."""

    key: ThreadKey
    comm: str
    vm: str | None
    uuid: str
    vmm: str
    vcpu: str
    alive: bool
    guest_ns: int
    wait_ns: int | None
    """Time in which the thread could run, but had no CPU; None if unknown."""
    in_progress: InProgress | None
    reasons: Sequence[ReasonReading]

    @property
    def vm_label(self) -> str:
        """The name of the VM, or its pid if the name is unknown: the same text as on /metrics."""
        return str(self.key.pid) if self.vm is None else self.vm


@dataclass(frozen=True)
class Reading:
    """All vCPUs at one time. Times are those of the host's CLOCK_MONOTONIC; in a replay, those of the recording."""

    taken_ns: int
    since_ns: int
    """When counting began. If the value changes, counting was restarted."""
    replay: bool
    counters: Mapping[str, int]
    """Events that were not counted, by cause: dropped_*, unmatched_*, missed_*, expired_early."""
    vcpus: Sequence[VcpuReading]


def nothing(since_ns: int, *, replay: bool = False) -> Reading:
    """Return the reading of the moment when counting began. It has no vCPU."""
    return Reading(since_ns, since_ns, replay, {}, ())


def reading_of(
    snapshot: Snapshot,
    identify: Callable[[ThreadKey], Vcpu | None],
    name: Callable[[int, int], Reason],
    *,
    since_ns: int,
    replay: bool,
) -> Reading:
    """Make a reading: add names to the vCPUs and reasons of a snapshot."""
    counters = {
        **snapshot.counters,
        **{f"missed_{program}": stats.misses for program, stats in snapshot.runs.items()},
        "expired_early": snapshot.expired_early,
    }
    vcpus = [_vcpu_reading(record, identify(record.key), name, split=snapshot.time_split) for record in snapshot.vcpus]
    return Reading(snapshot.taken_ns, since_ns, replay, counters, vcpus)


def _vcpu_reading(
    record: VcpuRecord, vcpu: Vcpu | None, name: Callable[[int, int], Reason], *, split: bool
) -> VcpuReading:
    in_progress = None
    if record.in_progress:
        reason = name(record.in_progress.space, record.in_progress.code)
        in_progress = InProgress(*reason, record.in_progress.age_ns)
    return VcpuReading(
        key=record.key,
        comm=record.comm.decode(errors="replace"),
        vm=vcpu.vm.name if vcpu else None,
        uuid=vcpu.vm.uuid if vcpu else "",
        vmm=vcpu.vm.vmm if vcpu else "",
        vcpu=vcpu.index if vcpu else "",
        alive=record.alive,
        guest_ns=record.totals.guest_ns,
        wait_ns=record.totals.wait_ns,
        in_progress=in_progress,
        reasons=[_reason_reading(cell, name(cell.space, cell.code), split=split) for cell in record.cells],
    )


def _reason_reading(cell: Cell, reason: Reason, *, split: bool) -> ReasonReading:
    kind = USERSPACE if cell.space in USERSPACE_SPACES else EXIT
    parts = cell.parts if split else None
    return ReasonReading(kind, reason.name, reason.klass, cell.exits, cell.sum_ns, cell.filled(), parts)
