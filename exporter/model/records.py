"""One collection as plain values: the collector makes them, every later room reads them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.model.reason import USERSPACE_SPACES


class TimeParts(NamedTuple):
    """Parts of the duration of exits, in ns: wait <= off <= duration.

    Of a return to the VMM, wait and off are parts of the time after that return. All are 0 where time is not split.
    """

    wait: int = 0
    """The thread could run, but had no CPU."""
    off: int = 0
    """The thread waited for a CPU or slept. The rest of the duration it was on a CPU."""
    vmm: int = 0
    """From the first return to the VMM to the next entry. 0 for an exit from the guest."""

    @property
    def sleep(self) -> int:
        """The thread slept."""
        return self.off - self.wait

    def fit(self, ns: int) -> bool:
        """Return True if no part is longer than a duration of `ns`."""
        return self.off <= ns and self.vmm <= ns

    def within(self, ns: int) -> TimeParts:
        """Return the parts. A part that is longer than `ns` becomes `ns`."""
        return TimeParts(min(self.wait, ns), min(self.off, ns), min(self.vmm, ns))

    def plus(self, other: TimeParts) -> TimeParts:
        """Return the sums."""
        return TimeParts(self.wait + other.wait, self.off + other.off, self.vmm + other.vmm)

    def minus(self, other: TimeParts) -> TimeParts:
        """Return the differences."""
        return TimeParts(self.wait - other.wait, self.off - other.off, self.vmm - other.vmm)


NO_PARTS = TimeParts()


class Cell(NamedTuple):
    """One reason of one vCPU: the exits, and the durations of the completed ones."""

    space: int
    code: int
    exits: int
    sum_ns: int
    """Duration of all completed exits."""
    buckets: bytes
    """u64 counts in native byte order; model/buckets.py has the bounds."""
    parts: TimeParts = NO_PARTS

    def counts(self) -> tuple[int, ...]:
        """The counts of the buckets. Their sum is the number of completed exits, at most `exits`."""
        return struct.unpack(f"{len(self.buckets) // 8}Q", self.buckets)

    def filled(self) -> dict[int, int]:
        """The counts above 0 by the number of their bucket, in the order of the buckets."""
        # Most buckets are empty, and they are cut off before any number is made: /-/vcpus has thousands of cells.
        first = (len(self.buckets) - len(self.buckets.lstrip(b"\0"))) // 8
        end = (len(self.buckets.rstrip(b"\0")) + 7) // 8
        counts = struct.unpack_from(f"{max(0, end - first)}Q", self.buckets, first * 8)
        return {number: count for number, count in enumerate(counts, first) if count}


class ThreadKey(NamedTuple):
    """One thread of one process. The time of its first event distinguishes it from a later thread with the same tid."""

    pid: int
    tid: int
    born_ns: int


class ExitInProgress(NamedTuple):
    """The exit that a vCPU is in now."""

    space: int
    code: int
    age_ns: int


class VcpuTotals(NamedTuple):
    """Times of one vCPU, without a reason."""

    guest_ns: int = 0
    """Time in guest mode."""
    wait_ns: int | None = None
    """Time in which the thread could run, but had no CPU; None if nothing on this host tells it."""


@dataclass(frozen=True)
class VcpuRecord:
    """One vCPU thread: its counts since its first event."""

    key: ThreadKey
    comm: bytes
    vcpu_id: int | None
    """The kernel's vcpu_id; None if the tracepoint does not have it."""
    totals: VcpuTotals
    cells: Sequence[Cell]
    in_progress: ExitInProgress | None
    alive: bool


@dataclass
class EndedVcpu:
    """A vCPU that ended: its last values, which are served until `expires_ns` on the collector's clock."""

    record: VcpuRecord
    expires_ns: int


def exit_sums(cells: Iterable[Cell]) -> tuple[int, int]:
    """The number of exits from the guest, and the number of exits to the VMM."""
    exits = userspace = 0
    for cell in cells:
        if cell.space in USERSPACE_SPACES:
            userspace += cell.exits
        else:
            exits += cell.exits
    return exits, userspace


def wait_ns(cells: Iterable[Cell]) -> int:
    """How long the thread waited for a CPU in all exits from the guest. Exits to the VMM are parts of them."""
    return sum(cell.parts.wait for cell in cells if cell.space not in USERSPACE_SPACES)


FreeEntry = tuple[str, int]
"""A slot or cell that is free again: the name of its stack, and its number."""


class Handover(NamedTuple):
    """The part of a collector's state that is in no map. The next process goes on from this state."""

    ended: Sequence[EndedVcpu] = ()
    """Ended vCPUs. Their slots are cleared, or listed in `free_entries`."""
    free_entries: Sequence[FreeEntry] = ()
    """Slots and cells that are cleared or will be cleared, and are not returned to the kernel yet."""
    unsure: FreeEntry | None = None
    """A cleared entry. The process ended while it returned the entry, so it is unknown whether the kernel has it."""


NO_HANDOVER = Handover()


class RunStats(NamedTuple):
    """The kernel's statistics of a loaded program. `seconds` and `runs` count while kernel.bpf_stats_enabled is 1."""

    seconds: float
    runs: int
    misses: int
    """Events that the kernel skipped, because the program was running on that CPU already; 0 before Linux 5.12."""


class ProcessDrops(NamedTuple):
    """Events of one process that are in no cell: exits, and returns to the VMM."""

    exits: int = 0
    userspace_exits: int = 0


@dataclass(frozen=True)
class Snapshot:
    """Everything that one collection read."""

    vcpus: Sequence[VcpuRecord]
    counters: Mapping[str, int]
    """The program's counters of dropped and unmatched events."""
    runs: Mapping[str, RunStats]
    """By the name of the BPF program."""
    slots: int
    """Number of vCPU threads that the maps have room for."""
    slots_in_use: int
    cells: int
    """Number of pairs of vCPU and reason that the maps have room for."""
    cells_in_use: int
    vanished: Sequence[VcpuRecord] = ()
    """vCPUs that ended and whose linger time is over. No later snapshot has them."""
    expired_early: int = 0
    """Number of vCPUs since the start whose linger time was cut short, because too many vCPUs had ended."""
    recycling_pending: int = 0
    """Number of free slots and cells that the kernel has not taken back yet."""
    missed_ends: int = 0
    """Number of vCPUs since the start whose end the program missed, and whose thread was then not found in /proc."""
    drops: Mapping[int, ProcessDrops] = field(default_factory=dict)
    """The dropped events by process. `counters` also has those of processes that found no room here."""
    time_split: bool = False
    """True if the program tells where the time of exits went. Otherwise the parts of all cells are 0."""
    taken_ns: int = 0
    """When the collection began, on the clock of the program's timestamps."""


class CountingSince(NamedTuple):
    """When counting began: Unix time in seconds, and nanoseconds on the clock of the program's timestamps."""

    unix: float
    ns: int


NOT_COUNTING = CountingSince(0.0, 0)
