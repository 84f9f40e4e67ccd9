"""The collector: reads the BPF maps and makes records of live vCPUs and of vCPUs that ended a short time ago.

Each collection copies the ended vCPUs out and returns their slot and cells to the kernel at once. The copies are kept
for `linger`. So a host that starts and stops thousands of VMs needs no larger pools than it has vCPUs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.collect.maps import NO_VCPU_ID, STATE_GUEST, STATE_HOST, ArrayMap, CellMap, CounterMap, SlotMap, SlotState
from exporter.kernel import syscall
from exporter.kernel.program import Loaded
from exporter.model.records import (
    NO_HANDOVER,
    Cell,
    EndedVcpu,
    ExitInProgress,
    FreeEntry,
    Handover,
    Snapshot,
    ThreadKey,
    VcpuRecord,
)

MAX_ENDED_CELLS = 16384
"""Cells of ended vCPUs that are kept: about 20 MB, and as many histograms on the page. More if the pools hold more."""


class Journal(NamedTuple):
    """Functions that write down the collector's next steps, so that another process can go on from any of them."""

    before_clearing: Callable[[Sequence[EndedVcpu], Sequence[FreeEntry]], None]
    """Is given all ended vCPUs, and all entries still to return to the kernel, in reverse order. Raises nothing."""
    step: Callable[[bool], None]
    """Is given False before the return of the next entry, and True after it. Raises OSError."""


@dataclass
class _TrackedSlot:
    """What one collection keeps of a slot in use for the next collection."""

    key: ThreadKey
    comm: bytes
    guest_ns: int = 0
    cells: dict[int, Cell] = field(default_factory=dict)
    served: tuple[Cell, ...] = ()
    """The values of the cells. It stays the same object until one of them changes."""


class Collector:
    """Reads the maps of a loaded program. Not thread-safe: one collection at a time.

    `clock_ns` must be the clock of the program's timestamps: CLOCK_MONOTONIC, or that of a replay. `handover` is what
    an earlier process that read the same maps left. With a `journal` another process can go on from this one.
    Raises OSError where there is no memory to map.
    """

    def __init__(
        self,
        loaded: Loaded,
        clock_ns: Callable[[], int],
        linger_ns: int,
        handover: Handover = NO_HANDOVER,
        journal: Journal | None = None,
    ) -> None:
        self.linger_ns = linger_ns
        """How long the record of a vCPU is kept after it ended, for vCPUs that end from now on."""
        self._loaded = loaded
        self._clock_ns = clock_ns
        self._slots = SlotMap(loaded.maps["slots"], loaded.layouts["slots"])
        self._cells = CellMap(loaded.maps["cells"], loaded.layouts["cells"])
        self._map_of_stack: dict[str, ArrayMap] = {"free_slots": self._slots, "free_cells": self._cells}
        self._counters = CounterMap(loaded.maps["counters"], loaded.layouts["counters"])
        self._tracked: dict[int, _TrackedSlot] = {}
        self._journal = journal
        # The linger time begins anew: while no process served them, nobody could scrape them.
        lingers_ns = clock_ns() + linger_ns
        self._ended = [EndedVcpu(each.record, max(each.expires_ns, lingers_ns)) for each in handover.ended]
        self._free_entries: list[FreeEntry] = []
        """Cleared, and not returned to the kernel yet; the last one is returned first."""
        self._expired_early = 0
        self._resume(handover)

    def close(self) -> None:
        """Unmap the arrays."""
        for mapped in (self._slots, self._cells, self._counters):
            mapped.close()

    @property
    def ended(self) -> Sequence[EndedVcpu]:
        """The vCPUs that ended and linger, in the order in which they ended."""
        return self._ended

    @property
    def free_entries(self) -> Sequence[FreeEntry]:
        """Entries still to return to the kernel, in reverse order."""
        return self._free_entries

    def collect(self) -> Snapshot:
        """Read every slot in use and every cell that changed, recycle the ended vCPUs, and drop what lingered enough.

        Raises OSError or MemoryError; the next collection then reads what this one missed.
        """
        # The clock is read before any slot, so that no age and no guest time is longer than the truth.
        now = self._clock_ns()
        self._slots.map_used()
        self._cells.map_used()
        self._read_changed_cells()
        live: list[VcpuRecord] = []
        ended: list[tuple[int, EndedVcpu]] = []
        for number in self._slots.used():
            slot = self._slots.read(number)
            if slot.owner:
                live.append(self._record(number, slot, now))
            elif self._slots.died(number):
                ended.append((number, EndedVcpu(self._last_record(number, slot, now), now + self.linger_ns)))
        counters = self._counters.read()
        runs = {name: syscall.program_stats(fd) for name, fd in self._loaded.programs.items()}
        # Everything that can fail comes first: each vanished vCPU must appear in exactly one snapshot.
        self._clear_ended(ended)
        self._return_free_entries()
        vanished = self._expire(now)
        return Snapshot(
            vcpus=live + [each.record for each in self._ended],
            counters=counters,
            runs=runs,
            slots=self._slots.layout.entries - 1,
            slots_in_use=len(live),
            cells=self._cells.layout.entries - 1,
            cells_in_use=sum(len(record.cells) for record in live),
            vanished=vanished,
            expired_early=self._expired_early,
            recycling_pending=len(self._free_entries),
            taken_ns=now,
        )

    def _read_changed_cells(self) -> None:
        changed = self._cells.changed()
        try:
            for number in changed:
                cell, slot, _ = self._cells.read(number)
                if slot:
                    self._store(slot, number, cell)
                else:  # taken at this moment: a weakly ordered CPU may show the exit before the owner
                    self._cells.mark_changed(number)
        except BaseException:  # MemoryError too: the next collection must read the cells that this one did not
            for number in changed:
                self._cells.mark_changed(number)
            raise

    def _track(self, number: int) -> _TrackedSlot:
        tracked = self._tracked.get(number)
        if tracked is None:
            identity = self._slots.identity(number)
            key = ThreadKey(identity.tgid, identity.tid, identity.born_ns)
            tracked = self._tracked[number] = _TrackedSlot(key, identity.comm)
        return tracked

    def _store(self, slot: int, number: int, cell: Cell) -> None:
        tracked = self._track(slot)
        tracked.cells[number] = cell
        tracked.served = ()

    def _record(self, number: int, slot: SlotState, now: int) -> VcpuRecord:
        tracked = self._track(number)
        alive = slot.owner != 0
        guest_ns = slot.guest_ns
        if alive and slot.state == STATE_GUEST:
            # A vCPU with few exits can be in the guest for minutes: its time there counts as it passes.
            guest_ns += max(0, now - slot.since_ns)
        # The interval ends with the exit's own timestamp, which may be older than the `now` that it raced with.
        tracked.guest_ns = guest_ns = max(tracked.guest_ns, guest_ns)
        in_progress = None
        if alive and slot.state == STATE_HOST and slot.exit_cell:
            if slot.exit_cell not in tracked.cells:  # taken after the changed cells were read
                self._store(number, slot.exit_cell, self._cells.read(slot.exit_cell)[0])
            current = tracked.cells[slot.exit_cell]
            in_progress = ExitInProgress(current.space, current.code, max(0, now - slot.since_ns))
        if not tracked.served:
            tracked.served = tuple(tracked.cells.values())
        return VcpuRecord(
            key=tracked.key,
            comm=tracked.comm,
            vcpu_id=None if slot.vcpu_id == NO_VCPU_ID else slot.vcpu_id,
            guest_ns=guest_ns,
            cells=tracked.served,
            in_progress=in_progress,
            alive=alive,
        )

    def _last_record(self, number: int, slot: SlotState, now: int) -> VcpuRecord:
        """Read the slot of an ended thread and all its cells again: some may have changed after changed()."""
        for first in self._slots.heads(number):
            cell_number = first
            while cell_number:
                cell, owner, following = self._cells.read(cell_number)
                if not owner:  # cleared by an earlier process that could not write its journal
                    break
                self._store(number, cell_number, cell)
                cell_number = following
        return self._record(number, slot, now)

    def _clear_ended(self, ended: Sequence[tuple[int, EndedVcpu]]) -> None:
        """Clear the slots of ended threads and their cells. Nothing may fail after this: no later reading has them."""
        if not ended:
            return
        entries: list[FreeEntry] = []
        for number, each in ended:
            entries += [("free_cells", cell) for cell in self._tracked.pop(number).cells]
            entries.append(("free_slots", number))
            self._ended.append(each)
        self._free_entries += entries
        try:
            if self._journal:
                self._journal.before_clearing(self._ended, self._free_entries)
        finally:
            for stack, number in entries:
                self._map_of_stack[stack].clear(number)

    def _return_free_entries(self) -> None:
        """Return free entries to the kernel. The next collection tries again with those that it does not take now."""
        while self._free_entries:
            stack, number = self._free_entries[-1]
            try:
                if self._journal:
                    self._journal.step(False)
                syscall.stack_push(self._loaded.maps[stack], number)
            except OSError:
                return  # kvm_exit_exporter_recycling_pending shows it
            self._free_entries.pop()
            if self._journal:
                with contextlib.suppress(OSError):  # the next process then finds out whether it was returned
                    self._journal.step(True)

    def _resume(self, handover: Handover) -> None:
        """Clear and return the entries that an earlier process was about to clear and to return."""
        unsure = [handover.unsure] if handover.unsure and not self._was_returned(*handover.unsure) else []
        for stack, number in (*handover.free_entries, *unsure):
            leaves = self._map_of_stack[stack]
            leaves.map_up_to(number)
            leaves.clear(number)
            self._free_entries.append((stack, number))
        if self._free_entries and self._journal:  # the journal then records the progress of these, too
            self._journal.before_clearing(self._ended, self._free_entries)

    def _was_returned(self, stack: str, number: int) -> bool:
        """True if a cleared entry is on its stack, or in use again."""
        leaves = self._map_of_stack[stack]
        leaves.map_up_to(number)
        for _ in range(2):
            if syscall.stack_top(self._loaded.maps[stack]) == number or leaves.in_use(number):
                return True
            time.sleep(0.001)  # the program may have popped it just now and not marked it as used yet
        return False

    def _expire(self, now: int) -> list[VcpuRecord]:
        """Drop the records that lingered long enough, and the oldest ones earlier where there are too many.

        The limit keeps the daemon's memory bounded while thousands of VMs come and go. All vCPUs that one collection
        finds ended fit in, so that every vCPU is in at least one snapshot.
        """
        room = max(MAX_ENDED_CELLS, self._slots.layout.entries + self._cells.layout.entries)
        kept: list[EndedVcpu] = []
        vanished: list[VcpuRecord] = []
        for each in reversed(self._ended):
            room -= max(1, len(each.record.cells))
            if each.expires_ns <= now:
                vanished.append(each.record)
            elif room < 0:
                vanished.append(each.record)
                self._expired_early += 1
            else:
                kept.append(each)
        self._ended = kept[::-1]
        return vanished
