"""The collector: reads the BPF maps and makes records of live vCPUs and of vCPUs that ended a short time ago.

Each collection copies the ended vCPUs, and returns their slots and cells to the kernel at once. The copies are kept for
`linger`. So a host that starts and stops thousands of VMs needs pools only for the vCPUs that run at the same time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from exporter.collect import missed_ends
from exporter.collect.droppers import Droppers
from exporter.collect.maps import OWNER_ENDED, ArrayMap, CellMap, CounterMap, SlotMap, SlotState
from exporter.collect.schedstat import Schedstat
from exporter.collect.shares import Shares
from exporter.kernel import syscall
from exporter.kernel.program import Loaded
from exporter.model.drops import any_dropped
from exporter.model.records import (
    NO_HANDOVER,
    Cell,
    EndedVcpu,
    ExitInProgress,
    FreeEntry,
    Handover,
    RunStats,
    Snapshot,
    ThreadKey,
    VcpuRecord,
    VcpuTotals,
    wait_ns,
)

_END_PROGRAMS = ("sched_process_exit", "sched_process_exec")

MAX_ENDED_CELLS = 16384
"""Largest number of cells that are kept for ended vCPUs, about 20 MB.

If the pools hold more cells, the limit is higher.
"""


class Journal(NamedTuple):
    """Functions that record each step of the collector. Another process can then continue after any step."""

    before_clearing: Callable[[Sequence[EndedVcpu], Sequence[FreeEntry]], None]
    """Called with all ended vCPUs, and all entries that must still be returned to the kernel, in reverse order.

    Raises nothing.
    """
    step: Callable[[bool], None]
    """Called with False before the next entry is returned to the kernel, and with True afterwards. Raises OSError."""


@dataclass
class _TrackedSlot:
    """The values of a slot in use. A collection keeps them for the next collection."""

    key: ThreadKey
    comm: bytes
    guest_ns: int = 0
    wait_ns: int | None = None
    cells: dict[int, Cell] = field(default_factory=dict)
    cells_tuple: tuple[Cell, ...] = ()
    """The values of `cells`. It stays the same object until a cell changes. It is empty if it must be made again."""


class Collector:
    """Reads the maps of a loaded program. Not thread-safe: one collection at a time.

    `clock_ns` must be the clock of the program's timestamps: bpf_clock(), or the clock of a replay. `handover` is the
    state of an earlier process that read the same maps. With a `journal`, another process can continue from the
    state of this one. Raises OSError, for example if there is no memory for the maps. Raises KeyError or ValueError if
    the maps do not have the expected form.
    """

    def __init__(
        self,
        loaded: Loaded,
        clock_ns: Callable[[], int],
        linger_ns: int,
        handover: Handover = NO_HANDOVER,
        journal: Journal | None = None,
        *,
        proc: Path = Path("/proc"),
        schedstat: Schedstat | None = None,
    ) -> None:
        self.linger_ns = linger_ns
        """How long the record of an ended vCPU is kept. A change applies only to vCPUs that end after the change."""
        self._loaded = loaded
        self._clock_ns = clock_ns
        self._slots = SlotMap(loaded.maps["slots"], loaded.layouts["slots"])
        self._cells = CellMap(loaded.maps["cells"], loaded.layouts["cells"])
        self._map_of_stack: dict[str, ArrayMap] = {"free_slots": self._slots, "free_cells": self._cells}
        self._counters = CounterMap(loaded.maps["counters"], loaded.layouts["counters"])
        self._shares = Shares(loaded)
        self._droppers = Droppers(loaded.maps["process_drops"], proc)
        self._tracked: dict[int, _TrackedSlot] = {}
        self._journal = journal
        # The linger time begins again, because nobody could scrape the ended vCPUs between the two processes.
        lingers_ns = clock_ns() + linger_ns
        self._ended = [EndedVcpu(each.record, max(each.expires_ns, lingers_ns)) for each in handover.ended]
        self._free_entries: list[FreeEntry] = []
        """Entries that are cleared, but not yet returned to the kernel. The last entry is returned first."""
        self._expired_early = 0
        self._proc = proc
        self._schedstat = schedstat
        self._known_misses = 0
        self._missed_ends = 0
        self._resume(handover)

    def close(self) -> None:
        """Unmap the arrays."""
        for mapped in (self._slots, self._cells, self._counters, self._shares):
            mapped.close()
        if self._schedstat:
            self._schedstat.close()

    @property
    def ended(self) -> Sequence[EndedVcpu]:
        """The ended vCPUs whose linger time is not over, in the order in which they ended."""
        return self._ended

    @property
    def free_entries(self) -> Sequence[FreeEntry]:
        """Entries that must still be returned to the kernel, in reverse order."""
        return self._free_entries

    def collect(self) -> Snapshot:
        """Read every slot in use and every changed cell, recycle ended vCPUs, and drop records after their linger time.

        Raises OSError or MemoryError. After an error, the next collection reads the values that this one missed.
        """
        # The clock is read before any slot, so that no age and no guest time is too long.
        now = self._clock_ns()
        self._slots.map_used()
        self._cells.map_used()
        self._read_changed_cells()
        live: dict[int, VcpuRecord] = {}
        ended: list[tuple[int, EndedVcpu]] = []
        used = self._slots.used()
        for number in used:
            slot = self._slots.read(number, now)
            if slot.owner == OWNER_ENDED:
                record = self._last_record(number, slot, now)
                if record:
                    ended.append((number, EndedVcpu(record, now + self.linger_ns)))
            elif slot.owner:
                record = self._record(number, slot, now)
                if record:
                    live[number] = record
        counters = self._counters.read()
        runs = {name: syscall.program_stats(fd) for name, fd in self._loaded.programs.items()}
        self._end_missed(live, runs, now)
        processes = {record.key.pid for record in live.values()}
        drops = self._droppers.read(processes, now, self.linger_ns) if any_dropped(counters) else {}
        # Everything that can fail comes first: each vanished vCPU must appear in exactly one snapshot.
        self._clear_ended(ended)
        self._return_free_entries()
        its_processes = {each.record.key.pid for _, each in ended}
        self._shares.store([*live.values()], len(used) - len(ended), self._free_entries, its_processes)
        vanished = self._expire(now)
        return Snapshot(
            vcpus=[*live.values()] + [each.record for each in self._ended],
            counters=counters,
            runs=runs,
            slots=self._slots.layout.entries - 1,
            slots_in_use=len(live),
            cells=self._cells.layout.entries - 1,
            cells_in_use=sum(len(record.cells) for record in live.values()),
            vanished=vanished,
            expired_early=self._expired_early,
            recycling_pending=len(self._free_entries),
            missed_ends=self._missed_ends,
            drops=drops,
            time_split=not self._loaded.unsplit_reason,
            taken_ns=now,
        )

    def _read_changed_cells(self) -> None:
        changed = self._cells.changed()
        try:
            for number in changed:
                cell, slot, _ = self._cells.read(number)
                if not self._store(slot, number, cell):
                    self._cells.mark_changed(number)
        except BaseException:  # MemoryError too: the next collection must read the cells that this one did not read
            for number in changed:
                self._cells.mark_changed(number)
            raise

    def _track(self, number: int) -> _TrackedSlot | None:
        """Return the values of a slot, or None if the slot was taken just now and is not complete yet."""
        tracked = self._tracked.get(number)
        if tracked is None:
            identity = self._slots.identity(number)
            if identity is None:
                return None
            key = ThreadKey(identity.id >> 32, identity.id & 0xFFFFFFFF, identity.born_ns)
            tracked = self._tracked[number] = _TrackedSlot(key, identity.comm)
        return tracked

    def _store(self, slot: int, number: int, cell: Cell) -> bool:
        """Keep the values of a cell. Return False if it, or its slot, is not complete yet."""
        tracked = self._track(slot) if slot else None
        if tracked is None:
            return False
        if not cell.parts.fit(cell.sum_ns):  # they have the last exit already, and the sum lacks it
            before = tracked.cells.get(number)
            cell = cell._replace(parts=before.parts if before else cell.parts.within(cell.sum_ns))
        tracked.cells[number] = cell
        tracked.cells_tuple = ()
        return True

    def _record(self, number: int, slot: SlotState, now: int) -> VcpuRecord | None:
        """Return the record of a slot, or None if the slot was taken just now and is not complete yet."""
        tracked = self._track(number)
        if tracked is None:
            return None
        # An exit's own timestamp may be older than the `now` of a collection that ran at the same moment. The time in
        # the guest must not fall then.
        tracked.guest_ns = max(tracked.guest_ns, slot.guest_ns)
        in_progress = None
        alive = slot.owner != OWNER_ENDED
        if alive and slot.exit_cell:
            if slot.exit_cell not in tracked.cells:  # a cell that was taken after the changed cells were read
                cell, owner, _ = self._cells.read(slot.exit_cell)
                if owner == number:
                    self._store(number, slot.exit_cell, cell)
            current = tracked.cells.get(slot.exit_cell)
            if current:
                in_progress = ExitInProgress(current.space, current.code, max(0, now - slot.exit_ns))
        if not tracked.cells_tuple:
            tracked.cells_tuple = tuple(tracked.cells.values())
            if not self._loaded.unsplit_reason:
                tracked.wait_ns = wait_ns(tracked.cells_tuple)
        if self._schedstat and alive:
            wait = self._schedstat.wait_ns(tracked.key)
            tracked.wait_ns = tracked.wait_ns if wait is None else wait
        return VcpuRecord(
            key=tracked.key,
            comm=tracked.comm,
            vcpu_id=slot.vcpu_id,
            totals=VcpuTotals(tracked.guest_ns, tracked.wait_ns),
            cells=tracked.cells_tuple,
            in_progress=in_progress,
            alive=alive,
        )

    def _last_record(self, number: int, slot: SlotState, now: int) -> VcpuRecord | None:
        """Read all cells of an ended thread again: some may have changed after changed()."""
        for first in self._slots.heads(number):
            cell_number = first
            while cell_number:
                cell, owner, following = self._cells.read(cell_number)
                if owner != number:  # an earlier process cleared this cell, but could not write its journal
                    break
                self._store(number, cell_number, cell)
                cell_number = following
        return self._record(number, slot, now)

    def _end_missed(self, live: Mapping[int, VcpuRecord], runs: Mapping[str, RunStats], now: int) -> None:
        """End the slots of threads whose end was missed, if the kernel has skipped such events since the last time.

        The next collection finds these slots ended, like all others. So no program can still be writing to them.
        """
        misses = sum(runs[name].misses for name in _END_PROGRAMS if name in runs)
        if misses == self._known_misses:
            return
        numbers = {record.key: number for number, record in live.items()}
        for key in missed_ends.ended(numbers, self._proc, now):
            self._slots.end(numbers[key])
            self._missed_ends += 1
        self._known_misses = misses

    def _clear_ended(self, ended: Sequence[tuple[int, EndedVcpu]]) -> None:
        """Clear the slots and cells of ended threads.

        No later step may fail, because no later collection reads these slots and cells.
        """
        if not ended:
            return
        entries: list[FreeEntry] = []
        for number, each in ended:
            entries += [("free_cells", cell) for cell in self._tracked.pop(number).cells]
            if self._schedstat:
                self._schedstat.forget(each.record.key)
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
        """Return free entries to the kernel. If the kernel refuses an entry, the next collection tries again."""
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
                with contextlib.suppress(OSError):  # the next process then finds out whether the entry was returned
                    self._journal.step(True)

    def _resume(self, handover: Handover) -> None:
        """Clear and return the entries that an earlier process was about to clear and to return."""
        unsure = [handover.unsure] if handover.unsure and not self._was_returned(*handover.unsure) else []
        for stack, number in (*handover.free_entries, *unsure):
            leaves = self._map_of_stack[stack]
            leaves.map_up_to(number)
            leaves.clear(number)
            self._free_entries.append((stack, number))
        if self._free_entries and self._journal:  # then the journal records the return of these entries, too
            self._journal.before_clearing(self._ended, self._free_entries)

    def _was_returned(self, stack: str, number: int) -> bool:
        """True if a cleared entry is on its stack, or in use again."""
        leaves = self._map_of_stack[stack]
        leaves.map_up_to(number)
        for _ in range(2):
            if syscall.stack_top(self._loaded.maps[stack]) == number or leaves.in_use(number):
                return True
            time.sleep(0.001)  # the program may have taken the entry just now, but not yet marked it as used
        return False

    def _expire(self, now: int) -> list[VcpuRecord]:
        """Drop records whose linger time is over. Drop the oldest ones earlier if there are too many.

        The limit bounds the daemon's memory while thousands of VMs start and end. There is always room for all vCPUs
        that one collection finds ended, so every vCPU is in at least one snapshot.
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
