"""Moves events from the ring buffer to the file: selects events, looks up their VMs, and ends the recording."""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from exporter.kernel import syscall
from exporter.kernel.program import Loaded
from exporter.model.records import ThreadKey
from exporter.model.vm import Vcpu, Vm
from exporter.naming.identity import unknown
from exporter.naming.lookup import Lookup
from exporter.naming.vcpu import index_from_comm
from exporter.recording import blocks
from exporter.recording.events import COUNTED, NO_VCPU_ID, PROGRAM_OF_KIND, Event, Kind, unpack
from exporter.recording.ring import Ring
from exporter.recording.writer import ThreadEntry, Writer

_POLL_SECONDS = 0.1
_IDENTITY_SECONDS = 2.0
"""How long the recorder waits for the name of a new thread's VM. The ring fills during that time."""

_UNWANTED = -1
"""The number that stands for every event of a VM that is not recorded."""


class Recorder:
    """One recording in progress."""

    def __init__(
        self,
        loaded: Loaded,
        ring: Ring,
        writer: Writer,
        proc: Path,
        *,
        vm_name: str = "",
        events: int = 0,
        clock_ns: Callable[[], int],
    ) -> None:
        """`vm_name`: record only this VM; "": every VM. `events`: stop after this number of events; 0: no limit.

        `clock_ns` is the clock of the events' times.
        """
        self._loaded = loaded
        self._ring = ring
        self._lost_map = _LostMap(loaded)
        self._writer = writer
        self._lookup = Lookup(proc, patience=_IDENTITY_SECONDS)
        self._vm_name = vm_name
        self._remaining = events or None
        self._clock_ns = clock_ns
        self._lost_read_ns = clock_ns()
        self._lost: Counter[Kind] = Counter()
        self.skipped: Counter[Kind] = Counter()
        """The lost events for which the kernel skipped the program. They may be of VMs that are not recorded."""
        # The block that is being filled:
        self._table: dict[bytes, int] = {}
        """Numbers of the distinct events, or _UNWANTED."""
        self._entries: list[bytes] = []
        """The distinct events, by number."""
        self._numbers: list[int] = []
        self._times: list[int] = []
        self._room = self._new_room()
        """Number of events that fill the block."""
        # The whole recording:
        self._vms: dict[Vm, int] = {}
        self._threads: list[ThreadEntry] = []
        self._announced = 0
        """How many threads of `_threads` are in the file."""
        self._last_of_tid: dict[int, int] = {}
        """By tid: the index in `_threads` of the last thread with this tid."""
        self._vm_of: dict[int, Vm] = {}
        """The VM of each process, by tgid, as found for its last announced thread."""
        self._unwanted: set[int] = set()
        """Threads of other VMs, by tid."""
        self.others: set[str] = set()
        """Names of VMs that had events, but are not recorded."""

    @property
    def vms(self) -> int:
        """Number of recorded VMs."""
        return len(self._vms)

    def run(self, deadline_ns: int | None, stopped: Callable[[], bool]) -> str:
        """Record until the deadline on the clock of the events, the limit of events or threads, or until stopped().

        Returns the reason for the end: "duration", "events", "threads" or "interrupted". Raises OSError if the file
        cannot be written, and RingError.
        """
        while True:
            if stopped():
                why = "interrupted"
            elif deadline_ns is not None and self._clock_ns() >= deadline_ns:
                why = "duration"
            else:
                left = _POLL_SECONDS if deadline_ns is None else (deadline_ns - self._clock_ns()) / 1e9
                if not self._ring.pending():
                    self._ring.wait(min(_POLL_SECONDS, left))
                end = self.take()
                if end:
                    return end
                continue
            self._loaded.detach()
            # A program that runs on another CPU may still be writing its event: read this event, too.
            while self._ring.pending():
                end = self.take()
                if end:
                    return end
            self.take()
            return why

    def take(self) -> str:
        """Read the events in the ring. Returns the reason why the recording must end, or "".

        Raises OSError if the file cannot be written, and RingError.
        """
        end = self._take(self._ring.read())
        self._note_losses()
        return end

    def _take(self, events: list[tuple[int, bytes]]) -> str:
        known, numbers, times = self._table, self._numbers, self._times
        for ns, what in events:
            number = known.get(what)
            if number is None:
                number = self._add(ns, what)
                if len(self._threads) > blocks.MAX_THREADS:
                    self._threads.pop()
                    self._entries.pop()
                    return "threads"
            if number == _UNWANTED:
                continue
            times.append(ns)
            numbers.append(number)
            if len(times) >= self._room:
                counted = self._flush()
                if self._remaining is not None:
                    self._remaining -= counted
                    if not self._remaining:
                        return "events"
                self._room = self._new_room()
        return ""

    def finish(self, ended: str) -> None:
        """Write the last block of events, and close the recording even if that fails. Raises OSError."""
        try:
            self._flush()
        finally:
            self._writer.close(self._vms, self._threads, ended)

    def close(self) -> None:
        """Free the recorder's resources. The ring and the writer belong to the caller."""
        self._lost_map.close()
        self._lookup.close()

    def _new_room(self) -> int:
        return min(blocks.MAX_EVENTS, self._remaining or blocks.MAX_EVENTS)

    def _add(self, ns: int, what: bytes) -> int:
        """Add an event that is not in the block's table yet; returns its number, or _UNWANTED."""
        event = unpack(what)
        tid = event.tid
        if event.kind == Kind.THREAD:
            return self._announce(ns, event, what)
        if tid in self._unwanted:
            number = _UNWANTED
            if event.kind == Kind.THREAD_END:
                self._forget_unwanted(tid)
                return number
        else:
            number = len(self._entries)
            self._entries.append(what)
            if event.vcpu_id != NO_VCPU_ID:
                self._set_index(self._last_of_tid[tid], event.vcpu_id)
        self._table[what] = number
        return number

    def _announce(self, ns: int, event: Event, what: bytes) -> int:
        """Look up the VM of an announced thread; returns the number of its event in the table, or _UNWANTED.

        An announcement has no entry in `_table`, because the same bytes may later announce a new thread with a reused
        tid.
        """
        key = ThreadKey(event.tgid, event.tid, ns)
        self._lookup.submit(key, event.comm, None)
        self._lookup.wait_known(_IDENTITY_SECONDS)
        found = self._lookup.get(key) or Vcpu(unknown(event.tgid), "")
        self._lookup.forget([key])
        # If the process has already ended, use the VM that was found for another of its threads.
        if found.vm == unknown(event.tgid):
            found = replace(found, vm=self._vm_of.get(event.tgid, found.vm))
        self._vm_of[event.tgid] = found.vm
        self._forget_unwanted(event.tid)
        if self._vm_name and found.vm.name != self._vm_name:
            self._unwanted.add(event.tid)
            self.others.add(found.vm.name)
            return _UNWANTED
        self._last_of_tid[event.tid] = len(self._threads)
        vm = self._vms.setdefault(found.vm, len(self._vms))
        self._threads.append(ThreadEntry(event.tid, vm, event.comm.decode(errors="replace"), found.index))
        self._entries.append(what)
        self._room = min(blocks.MAX_EVENTS, self._room + 1)  # --events does not count an announcement
        return len(self._entries) - 1

    def _forget_unwanted(self, tid: int) -> None:
        """Forget that the tid belonged to a thread of another VM: that thread has ended."""
        if tid in self._unwanted:
            self._unwanted.remove(tid)
            for what in [what for what, number in self._table.items() if number == _UNWANTED]:
                del self._table[what]

    def _set_index(self, thread: int, vcpu_id: int) -> None:
        known = self._threads[thread]
        index = index_from_comm(known.comm.encode(), vcpu_id)
        self._threads[thread] = ThreadEntry(known.tid, known.vm, known.comm, index)

    def _flush(self) -> int:
        """Write the block; returns the number of its events without announcements. Raises OSError."""
        before = self._writer.totals.counted()
        try:
            self._writer.events(self._entries, self._numbers, self._times)
        except OSError:
            del self._threads[self._announced :]
            raise
        finally:
            self._table.clear()
            for column in (self._entries, self._numbers, self._times):
                column.clear()
        self._announced = len(self._threads)
        return self._writer.totals.counted() - before

    def _note_losses(self) -> None:
        self.skipped = _skipped(self._loaded)
        now, lost = self._clock_ns(), self._lost_map.read() + self.skipped
        newly = lost - self._lost
        if newly:
            self._writer.losses(self._lost_read_ns, now, newly)
        self._lost, self._lost_read_ns = lost, now


def _skipped(loaded: Loaded) -> Counter[Kind]:
    """Ask the kernel how many events it skipped. Skipped ends are left out: most of those threads are no vCPUs."""
    kinds = (kind for kind in COUNTED if kind is not Kind.THREAD_END)
    return Counter({kind: syscall.program_stats(loaded.programs[PROGRAM_OF_KIND[kind]]).misses for kind in kinds})


class _LostMap:
    """The map in which the program counts the events that did not fit into the ring."""

    def __init__(self, loaded: Loaded) -> None:
        layout = loaded.layouts["lost"]
        self._fields = {kind: layout.fields[kind.name.lower()] for kind in COUNTED}
        self._memory = mmap.mmap(loaded.maps["lost"], mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)

    def read(self) -> Counter[Kind]:
        return Counter({kind: self._value(field.offset) for kind, field in self._fields.items()})

    def _value(self, offset: int) -> int:
        return int(struct.unpack_from("=Q", self._memory, offset)[0])

    def close(self) -> None:
        self._memory.close()
