"""Readings for tests, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exporter.model.records import ThreadKey, TimeParts
from exporter.readings.reading import EXIT, InProgress, Reading, ReasonReading, VcpuReading

SECOND = 10**9


def counted(
    reason: str,
    klass: str,
    exits: int,
    buckets: Mapping[int, int] | None = None,
    sum_ns: int = 0,
    *,
    kind: str = EXIT,
    parts: TimeParts | None = None,
) -> ReasonReading:
    """Return one reason. `buckets` is the count of intervals in each bucket."""
    return ReasonReading(kind, reason, klass, exits, sum_ns, dict(buckets or {}), parts)


def thread(
    pid: int,
    tid: int,
    *reasons: ReasonReading,
    vm: str | None = "web-1",
    vcpu: str = "0",
    comm: str = "",
    alive: bool = True,
    born_ns: int = 1,
    guest_ns: int = 0,
    wait_ns: int | None = None,
    in_progress: InProgress | None = None,
) -> VcpuReading:
    """Return one vCPU."""
    comm = comm or f"CPU {vcpu}/KVM"
    key = ThreadKey(pid, tid, born_ns)
    return VcpuReading(key, comm, vm, "", "qemu", vcpu, alive, guest_ns, wait_ns, in_progress, reasons)


def reading(
    seconds: float,
    *vcpus: VcpuReading,
    since_ns: int = 0,
    replay: bool = False,
    counters: Mapping[str, int] | None = None,
) -> Reading:
    """Return a reading of these vCPUs, taken `seconds` after counting began."""
    threads: Sequence[VcpuReading] = vcpus
    return Reading(since_ns + round(seconds * SECOND), since_ns, replay, dict(counters or {}), threads)
