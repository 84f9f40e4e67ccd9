"""What one collection sees, as plain values: made by snapshot.py, read by all that comes after it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Cell(NamedTuple):
    """One reason of one vCPU: exits seen, and the completed intervals in buckets."""

    space: int
    code: int
    exits: int
    sum_ns: int
    buckets: bytes
    """u64 counts in native byte order; the bounds are those of model/buckets.py."""

    def counts(self) -> tuple[int, ...]:
        """The buckets as numbers; their sum is the number of completed intervals, at most `exits`."""
        return struct.unpack(f"{len(self.buckets) // 8}Q", self.buckets)


class ThreadKey(NamedTuple):
    """One thread of one process, told from any later one with the same numbers by its first event."""

    pid: int
    tid: int
    born_ns: int


class ExitInProgress(NamedTuple):
    """The exit a vCPU is in now."""

    space: int
    code: int
    age_ns: int


@dataclass(frozen=True)
class VcpuRecord:
    """One vCPU thread: totals since its first event."""

    key: ThreadKey
    comm: bytes
    vcpu_id: int | None
    guest_ns: int
    cells: Sequence[Cell]
    in_progress: ExitInProgress | None
    alive: bool


@dataclass
class EndedVcpu:
    """A vCPU that ended: its last values, and until when they are served, on the collector's clock."""

    record: VcpuRecord
    expires_ns: int


FreeEntry = tuple[str, int]
"""The stack that a slot or cell belongs on, and its number."""


class Handover(NamedTuple):
    """What a process that read the same maps left half done, or in its memory alone."""

    retired: Sequence[EndedVcpu] = ()
    """Copied out: their slots are cleared, or in `freed`."""
    freed: Sequence[FreeEntry] = ()
    """Cleared or to be cleared, and not handed back."""
    unsure: FreeEntry | None = None
    """Cleared, and handed back or not: the process ended in that very moment."""


NO_HANDOVER = Handover()


@dataclass(frozen=True)
class Snapshot:
    """Everything one collection saw."""

    vcpus: Sequence[VcpuRecord]
    counters: Mapping[str, int]
    runs: Mapping[str, RunStats]
    slots: int
    slots_in_use: int
    cells: int
    cells_in_use: int
    vanished: Sequence[VcpuRecord] = ()
    """Of threads that have lingered long enough; no later snapshot has them."""
    expired_early: int = 0
    """Records of ended threads that were dropped before their time, since there were too many; since the start."""
    recycling_pending: int = 0
    """Slots and cells that the kernel did not take back yet."""
    taken_ns: int = 0
    """When it began, by the clock that the program stamps with."""


class RunStats(NamedTuple):
    """What the kernel says of a loaded program; the first two only while kernel.bpf_stats_enabled is 1."""

    seconds: float
    runs: int
    misses: int
    """Events skipped because the program was running on that CPU already; 0 before Linux 5.12."""
