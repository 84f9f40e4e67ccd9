"""Readings to test with: vCPUs of VMs by hand, as a collection would give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exporter.model.records import ThreadKey
from exporter.readings.reading import EXIT, Counted, InProgress, Reading, Thread

SECOND = 10**9


def counted(
    reason: str,
    klass: str,
    exits: int,
    buckets: Mapping[int, int] | None = None,
    sum_ns: int = 0,
    *,
    kind: str = EXIT,
) -> Counted:
    """One reason; its intervals lie in the given buckets."""
    return Counted(kind, reason, klass, exits, sum_ns, dict(buckets or {}))


def thread(
    pid: int,
    tid: int,
    *reasons: Counted,
    vm: str | None = "web-1",
    vcpu: str = "0",
    comm: str = "",
    alive: bool = True,
    born_ns: int = 1,
    guest_ns: int = 0,
    in_progress: InProgress | None = None,
) -> Thread:
    """One vCPU."""
    comm = comm or f"CPU {vcpu}/KVM"
    key = ThreadKey(pid, tid, born_ns)
    return Thread(key, comm, vm, "", "qemu", vcpu, alive, guest_ns, in_progress, reasons)


def reading(
    seconds: float, *vcpus: Thread, since_ns: int = 0, replay: bool = False, counters: Mapping[str, int] | None = None
) -> Reading:
    """All vCPUs so many seconds after counting began."""
    threads: Sequence[Thread] = vcpus
    return Reading(since_ns + round(seconds * SECOND), since_ns, replay, dict(counters or {}), threads)
