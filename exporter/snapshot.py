"""What the maps hold, as plain records: live vCPUs, those that died lately, and the pools.

Each collect() copies the dead out, gives their slot and cells back to the kernel at once, and keeps the copy for
`linger`, so that a machine that starts and stops VMs by the thousand needs no larger pools than it has vCPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from exporter.bpf import syscall
from exporter.maps import NO_VCPU_ID, STATE_GUEST, STATE_HOST, Cells, Counters, Slot, Slots
from exporter.program import Loaded
from exporter.records import ExitInProgress, Snapshot, ThreadKey, VcpuRecord


@dataclass
class _Retired:
    record: VcpuRecord
    expires_ns: int


@dataclass
class _Kept:
    """What must be remembered of a live slot from one collection to the next."""

    born_ns: int
    guest_ns: int = 0
    cells: list[int] = field(default_factory=list)


class Collector:
    """Reads the maps of a loaded program. Not thread-safe: one collection at a time.

    `clock_ns` must be the clock the program stamps with: CLOCK_MONOTONIC, or that of a replay.
    """

    def __init__(self, loaded: Loaded, clock_ns: Callable[[], int], linger_ns: int) -> None:
        self._loaded = loaded
        self._clock_ns = clock_ns
        self._linger_ns = linger_ns
        self._slots = Slots(loaded.maps["slots"], loaded.layouts["slots"])
        self._cells = Cells(loaded.maps["cells"], loaded.layouts["cells"])
        self._counters = Counters(loaded.maps["counters"], loaded.layouts["counters"])
        self._kept: dict[int, _Kept] = {}
        self._retired: list[_Retired] = []

    def close(self) -> None:
        """Unmap the arrays."""
        for mapped in (self._slots, self._cells, self._counters):
            mapped.close()

    def collect(self) -> Snapshot:
        """Read every slot in use; recycle the dead; drop what has lingered long enough."""
        # Before any slot is read: an age or a guest time must never be longer than the truth.
        now = self._clock_ns()
        live: list[VcpuRecord] = []
        for number in self._slots.used():
            slot = self._slots.read(number)
            if slot.owner:
                live.append(self._record(number, slot, now))
            elif slot.died_ns:
                self._retired.append(_Retired(self._record(number, slot, now), now + self._linger_ns))
                self._recycle(number)
            # else its first event is being handled this very moment
        vanished = self._expire(now, {(record.key.pid, record.key.tid) for record in live})
        return Snapshot(
            vcpus=live + [retired.record for retired in self._retired],
            counters=self._counters.read(),
            runs={name: syscall.program_stats(fd) for name, fd in self._loaded.programs.items()},
            slots=self._slots.layout.entries - 1,
            slots_in_use=len(live),
            cells=self._cells.layout.entries - 1,
            cells_in_use=sum(len(record.cells) for record in live),
            vanished=vanished,
        )

    def _record(self, number: int, slot: Slot, now: int) -> VcpuRecord:
        kept = self._kept.get(number)
        if kept is None or kept.born_ns != slot.born_ns:
            kept = self._kept[number] = _Kept(slot.born_ns)
        alive = slot.owner != 0
        guest_ns = slot.guest_ns
        if alive and slot.state == STATE_GUEST:
            # A vCPU with few exits can be in the guest for minutes: its time there counts as it passes.
            guest_ns += max(0, now - slot.since_ns)
        # The interval ends with the exit's own time stamp, which may be older than a `now` it raced with.
        kept.guest_ns = guest_ns = max(kept.guest_ns, guest_ns)

        numbered = [found for head in slot.cells for found in self._cells.chain(head)]
        kept.cells = [cell_number for cell_number, _ in numbered]
        in_progress = None
        if alive and slot.state == STATE_HOST:
            current = dict(numbered).get(slot.exit_cell)
            if current:
                in_progress = ExitInProgress(current.space, current.code, max(0, now - slot.since_ns))
        return VcpuRecord(
            key=ThreadKey(slot.tgid, slot.tid, slot.born_ns),
            comm=slot.comm,
            vcpu_id=None if slot.vcpu_id == NO_VCPU_ID else slot.vcpu_id,
            guest_ns=guest_ns,
            cells=[cell for _, cell in numbered],
            in_progress=in_progress,
            alive=alive,
        )

    def _recycle(self, number: int) -> None:
        """Give a dead thread's slot and cells back: cleared first, for the kernel may pop them at once."""
        for cell in self._kept.pop(number).cells:
            self._cells.clear(cell)
            syscall.queue_push(self._loaded.maps["free_cells"], cell)
        self._slots.clear(number)
        syscall.queue_push(self._loaded.maps["free_slots"], number)

    def _expire(self, now: int, alive: set[tuple[int, int]]) -> list[ThreadKey]:
        """Forget what has lingered, but threads of one process that had the same tid only all together.

        They share their labels and are served as one sum, which must not fall.
        """
        wanted = alive | {(r.record.key.pid, r.record.key.tid) for r in self._retired if r.expires_ns > now}
        kept, vanished = [], []
        for retired in self._retired:
            key = retired.record.key
            if (key.pid, key.tid) in wanted:
                kept.append(retired)
            else:
                vanished.append(key)
        self._retired = kept
        return vanished
