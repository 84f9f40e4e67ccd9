"""From the ring buffer to the file: which events are wanted, which VM they are of, and when it is enough."""

from __future__ import annotations

import mmap
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from exporter.collect.maps import NO_VCPU_ID
from exporter.kernel.program import Loaded
from exporter.model.records import ThreadKey
from exporter.model.vm import Vcpu, Vm
from exporter.naming.identity import unknown
from exporter.naming.lookup import Lookup
from exporter.naming.vcpu import index_from_comm
from exporter.recording import blocks
from exporter.recording.events import COUNTED, Event, Kind, unpack
from exporter.recording.ring import Ring
from exporter.recording.writer import ThreadEntry, Writer

MAX_THREADS = 1 << 16
"""Of one recording, as recording.py reads them."""

_POLL_SECONDS = 0.1
_IDENTITY_SECONDS = 2.0
"""How long the reading waits for the name of a VM it sees for the first time; the ring fills meanwhile."""

_UNWANTED = -1


class Recorder:
    """One recording under way. `clock_ns` is CLOCK_MONOTONIC, as the program stamps with."""

    def __init__(
        self,
        loaded: Loaded,
        ring: Ring,
        writer: Writer,
        proc: Path,
        *,
        vm_name: str = "",
        events: int = 0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`vm_name`: of this VM alone; `events`: so many at most, 0 for no such limit."""
        self._loaded = loaded
        self._ring = ring
        self._lost_map = _LostMap(loaded)
        self._writer = writer
        self._lookup = Lookup(proc, patience=_IDENTITY_SECONDS)
        self._vm_name = vm_name
        self._left = events or None
        self._clock_ns = clock_ns
        self._looked_ns = clock_ns()
        self._lost: Counter[Kind] = Counter()
        # Of the block that is being filled:
        self._table: dict[bytes, int] = {}
        self._entries: list[bytes] = []
        self._numbers: list[int] = []
        self._times: list[int] = []
        self._room = self._new_room()
        # Of the whole recording:
        self._vms: dict[Vm, int] = {}
        self._threads: list[ThreadEntry] = []
        self._announced = 0
        """How many of them are in the file."""
        self._last_of_tid: dict[int, int] = {}
        self._vm_of: dict[int, Vm] = {}
        """By tgid."""
        self._unwanted: set[int] = set()
        """Threads of other VMs, by tid."""
        self.others: set[str] = set()
        """Names of VMs that were seen and not asked for."""

    @property
    def vms(self) -> int:
        """VMs seen so far."""
        return len(self._vms)

    def run(self, deadline_ns: int | None, stopped: Callable[[], bool]) -> str:
        """Record until the deadline, the number of events or stopped(); returns which of them it was.

        Raises OSError when the file cannot be written.
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
                enough = self.take()
                if enough:
                    return enough
                continue
            self._loaded.detach()
            # What another CPU was writing at that moment comes to its end.
            while self._ring.pending():
                enough = self.take()
                if enough:
                    return enough
            self.take()
            return why

    def take(self) -> str:
        """Take what the ring holds; returns why it is enough, or ""."""
        enough = self._take(self._ring.read())
        self._note_losses()
        return enough

    def _take(self, events: list[tuple[int, bytes]]) -> str:
        known, numbers, times = self._table, self._numbers, self._times
        for ns, what in events:
            number = known.get(what)
            if number is None:
                number = self._meet(ns, what)
                if len(self._threads) > MAX_THREADS:
                    self._threads.pop()
                    self._entries.pop()
                    return "threads"
            if number == _UNWANTED:
                continue
            times.append(ns)
            numbers.append(number)
            if len(times) >= self._room:
                counted = self._flush()
                if self._left is not None:
                    self._left -= counted
                    if not self._left:
                        return "events"
                self._room = self._new_room()
        return ""

    def finish(self, ended: str) -> None:
        """Write what is held back, and close the recording. Raises OSError; then at least it was tried."""
        try:
            self._flush()
        finally:
            self._writer.close(self._vms, self._threads, ended)

    def close(self) -> None:
        """Free what belongs to the recorder."""
        self._lost_map.close()
        self._lookup.close()

    def _new_room(self) -> int:
        return min(blocks.MAX_EVENTS, self._left or blocks.MAX_EVENTS)

    def _meet(self, ns: int, what: bytes) -> int:
        """Take in an event that the block has not had yet; returns its number, or _UNWANTED."""
        event = unpack(what)
        tid = event.tid
        if event.kind == Kind.THREAD:
            return self._announce(ns, event, what)
        if tid in self._unwanted:
            number = _UNWANTED
            if event.kind == Kind.THREAD_END:
                self._want_again(tid)
                return number
        else:
            number = len(self._entries)
            self._entries.append(what)
            if event.vcpu_id != NO_VCPU_ID:
                self._index(self._last_of_tid[tid], event.vcpu_id)
        self._table[what] = number
        return number

    def _announce(self, ns: int, event: Event, what: bytes) -> int:
        """Find out whose thread it is. Never through the table, for the tid may be another thread's by now."""
        key = ThreadKey(event.tgid, event.tid, ns)
        self._lookup.submit(key, event.comm, None)
        self._lookup.wait_known(_IDENTITY_SECONDS)
        found = self._lookup.get(key) or Vcpu(unknown(event.tgid), "")
        self._lookup.forget([key])
        # A process that has ended meanwhile tells nothing any more; another of its threads may have been in time.
        if found.vm == unknown(event.tgid):
            found = replace(found, vm=self._vm_of.get(event.tgid, found.vm))
        self._vm_of[event.tgid] = found.vm
        self._want_again(event.tid)
        if self._vm_name and found.vm.name != self._vm_name:
            self._unwanted.add(event.tid)
            self.others.add(found.vm.name)
            return _UNWANTED
        self._last_of_tid[event.tid] = len(self._threads)
        vm = self._vms.setdefault(found.vm, len(self._vms))
        self._threads.append(ThreadEntry(event.tid, vm, event.comm.decode(errors="replace"), found.index))
        self._entries.append(what)
        self._room = min(blocks.MAX_EVENTS, self._room + 1)  # it is none of the events that --events counts
        return len(self._entries) - 1

    def _want_again(self, tid: int) -> None:
        """Forget that this tid was a thread of another VM."""
        if tid in self._unwanted:
            self._unwanted.remove(tid)
            for what in [what for what, number in self._table.items() if number == _UNWANTED]:
                del self._table[what]

    def _index(self, thread: int, vcpu_id: int) -> None:
        known = self._threads[thread]
        index = index_from_comm(known.comm.encode(), vcpu_id)
        self._threads[thread] = ThreadEntry(known.tid, known.vm, known.comm, index)

    def _flush(self) -> int:
        """Write the block; returns how many events it has but for announcements."""
        before = sum(self._writer.counts[kind] for kind in COUNTED)
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
        return sum(self._writer.counts[kind] for kind in COUNTED) - before

    def _note_losses(self) -> None:
        now, lost = self._clock_ns(), self._lost_map.read()
        more = lost - self._lost
        if more:
            self._writer.losses(self._looked_ns, now, more)
        self._lost, self._looked_ns = lost, now


class _LostMap:
    """The program's count of what did not fit into the ring."""

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
