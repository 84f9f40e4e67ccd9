"""What the maps hold, as plain records: live vCPUs, those that died lately, and the pools.

Each collect() copies the dead out, gives their slot and cells back to the kernel at once, and keeps the copy for
`linger`, so that a machine that starts and stops VMs by the thousand needs no larger pools than it has vCPUs.
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

MAX_RETIRED_CELLS = 16384
"""Of ended vCPUs that linger: some 20 MB, and as many histograms on the page; what the pools hold, if that is more."""


class Precautions(NamedTuple):
    """Against the end of this process at any moment: what is to be told, and when."""

    before_clearing: Callable[[Sequence[EndedVcpu], Sequence[FreeEntry]], None]
    """All that lingers, and all that will be handed back, the last first. Raises nothing."""
    step: Callable[[bool], None]
    """False: the next number is about to be handed back; True: it has been. Raises OSError."""


@dataclass
class _TrackedSlot:
    """What is remembered of a slot in use from one collection to the next."""

    key: ThreadKey
    comm: bytes
    guest_ns: int = 0
    cells: dict[int, Cell] = field(default_factory=dict)
    served: tuple[Cell, ...] = ()
    """The cells' values; the same object until one of them changes."""


class Collector:
    """Reads the maps of a loaded program. Not thread-safe: one collection at a time.

    `clock_ns` must be the clock the program stamps with: CLOCK_MONOTONIC, or that of a replay. `left` is what
    an earlier process that read the same maps left; with `precautions` another one can take over from this.
    """

    def __init__(
        self,
        loaded: Loaded,
        clock_ns: Callable[[], int],
        linger_ns: int,
        left: Handover = NO_HANDOVER,
        precautions: Precautions | None = None,
    ) -> None:
        self.linger_ns = linger_ns
        """How long the records of vCPUs are kept that end from now on."""
        self._loaded = loaded
        self._clock_ns = clock_ns
        self._slots = SlotMap(loaded.maps["slots"], loaded.layouts["slots"])
        self._cells = CellMap(loaded.maps["cells"], loaded.layouts["cells"])
        self._of_stack: dict[str, ArrayMap] = {"free_slots": self._slots, "free_cells": self._cells}
        self._counters = CounterMap(loaded.maps["counters"], loaded.layouts["counters"])
        self._kept: dict[int, _TrackedSlot] = {}
        self._precautions = precautions
        # Nobody may have had time to ask for them since.
        lingers_ns = clock_ns() + linger_ns
        self._retired = [EndedVcpu(each.record, max(each.expires_ns, lingers_ns)) for each in left.retired]
        self._freed: list[FreeEntry] = []
        """Cleared, and not yet handed back."""
        self._expired_early = 0
        self._resume(left)

    def close(self) -> None:
        """Unmap the arrays."""
        for mapped in (self._slots, self._cells, self._counters):
            mapped.close()

    @property
    def retired(self) -> Sequence[EndedVcpu]:
        """The vCPUs that ended and linger, in that order."""
        return self._retired

    @property
    def freed(self) -> Sequence[FreeEntry]:
        """What is still to be handed back, the last first."""
        return self._freed

    def collect(self) -> Snapshot:
        """Read every slot in use and the cells that changed; recycle the dead; drop what has lingered."""
        # Before any slot is read: an age or a guest time must never be longer than the truth.
        now = self._clock_ns()
        self._slots.cover()
        self._cells.cover()
        changed = self._cells.changed()
        try:
            for number in changed:
                cell, slot, _ = self._cells.read(number)
                if slot:
                    self._keep(slot, number, cell)
                else:  # taken this very moment: a weakly ordered CPU may show the exit before the owner
                    self._cells.look_again(number)
        except BaseException:  # out of memory: what was not read has changed for the next collection too
            for number in changed:
                self._cells.look_again(number)
            raise
        live: list[VcpuRecord] = []
        ended: list[tuple[int, EndedVcpu]] = []
        for number in self._slots.used():
            hot = self._slots.read(number)
            if hot.owner:
                live.append(self._record(number, hot, now))
            elif self._slots.died(number):
                ended.append((number, EndedVcpu(self._last_record(number, hot, now), now + self.linger_ns)))
        counters = self._counters.read()
        runs = {name: syscall.program_stats(fd) for name, fd in self._loaded.programs.items()}
        self._free(ended)  # what can fail comes before: what vanishes is in this snapshot, and in no other
        self._give_back()
        vanished = self._expire(now)
        return Snapshot(
            vcpus=live + [retired.record for retired in self._retired],
            counters=counters,
            runs=runs,
            slots=self._slots.layout.entries - 1,
            slots_in_use=len(live),
            cells=self._cells.layout.entries - 1,
            cells_in_use=sum(len(record.cells) for record in live),
            vanished=vanished,
            expired_early=self._expired_early,
            recycling_pending=len(self._freed),
            taken_ns=now,
        )

    def _kept_of(self, number: int) -> _TrackedSlot:
        kept = self._kept.get(number)
        if kept is None:
            identity = self._slots.identity(number)
            key = ThreadKey(identity.tgid, identity.tid, identity.born_ns)
            kept = self._kept[number] = _TrackedSlot(key, identity.comm)
        return kept

    def _keep(self, slot: int, number: int, cell: Cell) -> None:
        kept = self._kept_of(slot)
        kept.cells[number] = cell
        kept.served = ()

    def _record(self, number: int, hot: SlotState, now: int) -> VcpuRecord:
        kept = self._kept_of(number)
        alive = hot.owner != 0
        guest_ns = hot.guest_ns
        if alive and hot.state == STATE_GUEST:
            # A vCPU with few exits can be in the guest for minutes: its time there counts as it passes.
            guest_ns += max(0, now - hot.since_ns)
        # The interval ends with the exit's own time stamp, which may be older than a `now` it raced with.
        kept.guest_ns = guest_ns = max(kept.guest_ns, guest_ns)
        in_progress = None
        if alive and hot.state == STATE_HOST and hot.exit_cell:
            if hot.exit_cell not in kept.cells:  # taken since the cells were looked at
                self._keep(number, hot.exit_cell, self._cells.read(hot.exit_cell)[0])
            current = kept.cells[hot.exit_cell]
            in_progress = ExitInProgress(current.space, current.code, max(0, now - hot.since_ns))
        if not kept.served:
            kept.served = tuple(kept.cells.values())
        return VcpuRecord(
            key=kept.key,
            comm=kept.comm,
            vcpu_id=None if hot.vcpu_id == NO_VCPU_ID else hot.vcpu_id,
            guest_ns=guest_ns,
            cells=kept.served,
            in_progress=in_progress,
            alive=alive,
        )

    def _last_record(self, number: int, hot: SlotState, now: int) -> VcpuRecord:
        """Read a dead thread's slot and, once more, all its cells: some may have changed since changed()."""
        for first in self._slots.heads(number):
            cell_number = first
            while cell_number:
                cell, slot, following = self._cells.read(cell_number)
                if not slot:  # cleared by a process that could not write down what it was about to clear
                    break
                self._keep(number, cell_number, cell)
                cell_number = following
        return self._record(number, hot, now)

    def _free(self, ended: Sequence[tuple[int, EndedVcpu]]) -> None:
        """Clear the slots of dead threads and their cells: from here on nothing may fail, and none is found again."""
        if not ended:
            return
        freed: list[FreeEntry] = []
        for number, retired in ended:
            freed += [("free_cells", cell) for cell in self._kept.pop(number).cells]
            freed.append(("free_slots", number))
            self._retired.append(retired)
        self._freed += freed
        try:
            if self._precautions:
                self._precautions.before_clearing(self._retired, self._freed)
        finally:
            for each in freed:
                self._clear(each)

    def _clear(self, freed: FreeEntry) -> None:
        stack, number = freed
        self._of_stack[stack].clear(number)

    def _give_back(self) -> None:
        """Hand what was freed to the kernel. What it does not take now is tried again at the next collection."""
        while self._freed:
            stack, number = self._freed[-1]
            try:
                if self._precautions:
                    self._precautions.step(False)
                syscall.stack_push(self._loaded.maps[stack], number)
            except OSError:
                return  # kvm_exit_exporter_recycling_pending shows it
            self._freed.pop()
            if self._precautions:
                with contextlib.suppress(OSError):  # then the next process looks whether it was
                    self._precautions.step(True)

    def _resume(self, left: Handover) -> None:
        """Go on with what an earlier process was about to clear and hand back."""
        unsure = [left.unsure] if left.unsure and not self._handed_back(*left.unsure) else []
        for stack, number in (*left.freed, *unsure):
            self._of_stack[stack].reach(number)
            self._clear((stack, number))
            self._freed.append((stack, number))
        if self._freed and self._precautions:  # how far it comes now is to be known, too
            self._precautions.before_clearing(self._retired, self._freed)

    def _handed_back(self, stack: str, number: int) -> bool:
        """Whether a number that was cleared is on its stack, or in use again."""
        leaves = self._of_stack[stack]
        leaves.reach(number)
        for _ in range(2):
            if syscall.stack_top(self._loaded.maps[stack]) == number or leaves.in_use(number):
                return True
            time.sleep(0.001)  # it may just be on its way from the one to the other
        return False

    def _expire(self, now: int) -> list[VcpuRecord]:
        """Forget what has lingered long enough; the oldest sooner where there is too much of it.

        So that VMs that come and go by the thousand cannot make the daemon grow without bound. What one collection
        finds ended always has room, so that every vCPU is in one snapshot at least.
        """
        room = max(MAX_RETIRED_CELLS, self._slots.layout.entries + self._cells.layout.entries)
        kept: list[EndedVcpu] = []
        vanished: list[VcpuRecord] = []
        for retired in reversed(self._retired):
            room -= max(1, len(retired.record.cells))
            if retired.expires_ns <= now:
                vanished.append(retired.record)
            elif room < 0:
                vanished.append(retired.record)
                self._expired_early += 1
            else:
                kept.append(retired)
        self._retired = kept[::-1]
        return vanished
