"""The program's array maps, mapped into this process. So reading a key takes no system call.

Layouts come from bcc (program.LeafLayout), so that every structure is declared once, in kernel/bpf/maps.bpf.h. A vCPU
continues to write while this process reads, and the writes may become visible in any order. So a reader relies on no
order. An aligned 64-bit word is always read whole. Values of several words are accepted only if a check fits them.
"""

from __future__ import annotations

import mmap
import struct
from itertools import compress
from operator import ne, or_
from typing import NamedTuple

from exporter.kernel.program import LeafField, LeafLayout
from exporter.model.records import Cell, TimeParts

_TRIES = 8
"""How many times a cell or slot is read at most, if it changes while it is read. One try takes about a microsecond."""

_ALL_BITS = 2**64 - 1
_STATE_BITS = 2
_LINE_WORDS = 8
"""64-bit words of the first cache line of a slot. An exit and an entry change only these."""

_CODES = {4: "I", 8: "Q"}
_FIRST_BYTES = 1 << 18
"""Bytes of an array that are mapped at the start: 200 cells, or 680 vCPUs."""


class SlotState(NamedTuple):
    """The members of a slot that change, decoded for one moment."""

    owner: int
    """The id of the living thread. 0 if the slot was taken just now. OWNER_ENDED if its thread has ended."""
    vcpu_id: int | None
    guest_ns: int
    """The guest time until the moment, also of a vCPU that is in its guest."""
    exit_cell: int
    """The cell of the exit in progress. 0 if there is none, or if it began and ended while it was read."""
    exit_ns: int
    """The time of that exit."""


class SlotIdentity(NamedTuple):
    """The members of a slot that stay the same while a thread uses it."""

    id: int
    """tgid << 32 | tid"""
    born_ns: int
    comm: bytes


OWNER_ENDED = _ALL_BITS

_STATE_GUEST = 1
_STATE_HOST = 2


class ArrayMap:
    """One mmap'd BPF array (BPF_F_MMAPABLE, Linux 5.5): leaf `i` lies at `i * layout.size`.

    Only the part that was ever in use is mapped. The program takes leaves with low numbers first, and only this process
    returns leaves. So if the program took a leaf beyond the mapped part since the last collection, all mapped leaves
    are in use, including the last one. Raises OSError if there is no memory to map.
    """

    _in_use = ""
    """The member that is not 0 while a leaf is in use."""

    def __init__(self, fd: int, layout: LeafLayout) -> None:
        self.layout = layout
        self._fd = fd
        self._columns: dict[str, memoryview[int]] = {}
        self._use(self._map(_FIRST_BYTES // layout.size))

    def _map(self, leaves: int) -> mmap.mmap:
        page = mmap.PAGESIZE
        length = (self.layout.size * min(leaves, self.layout.entries) + page - 1) // page * page
        return mmap.mmap(self._fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def _use(self, memory: mmap.mmap) -> None:
        self.mapped = min(len(memory) // self.layout.size, self.layout.entries)
        self.memory = memory
        self._words = memoryview(memory).cast("Q")

    def map_up_to(self, number: int) -> None:
        """Map a leaf and all leaves before it. Raises OSError if there is no memory; the old mapping then stays."""
        if number >= self.mapped:
            longer = self._map(max(2 * self.mapped, number + 1))
            self.close()
            self._use(longer)

    def map_used(self) -> None:
        """Map every leaf in use. Raises OSError if there is no memory."""
        while self.mapped < self.layout.entries and self.in_use(self.mapped - 1):
            self.map_up_to(self.mapped)

    def in_use(self, number: int) -> bool:
        """True if the program took this leaf, and the leaf was not cleared since then. The leaf must be mapped."""
        field = self.layout.fields[self._in_use]
        start = number * self.layout.size + field.offset
        return any(self.memory[start : start + field.size])

    def column(self, name: str) -> list[int]:
        """Read one 64-bit member of every mapped leaf."""
        if name not in self._columns:
            column = self._words[self.layout.fields[name].offset // 8 :: self.layout.size // 8]
            self._columns[name] = column[: self.mapped]
        return self._columns[name].tolist()

    def clear(self, number: int) -> None:
        """Fill a leaf with zeros. No thread may write to it any more."""
        start = number * self.layout.size
        self.memory[start : start + self.layout.size] = bytes(self.layout.size)

    def close(self) -> None:
        """Unmap. The kernel frees the map when its last descriptor is closed."""
        self._columns.clear()
        self._words.release()
        self.memory.close()


def _unpacker(layout: LeafLayout, names: tuple[str, ...]) -> struct.Struct:
    """Return a Struct that unpacks these members of a leaf. `names` must be in the order of the leaf."""
    form, at = "=", 0
    for name in names:
        field: LeafField = layout.fields[name]
        form += f"{field.offset - at}x"
        if field.size == 1:
            form += f"{field.items}s"
        else:
            form += f"{field.items}{_CODES[field.size]}"
        at = field.offset + field.size * field.items
    return struct.Struct(form)


class CellMap(ArrayMap):
    """The pool of cells."""

    _in_use = "slot_space"

    def __init__(self, fd: int, layout: LeafLayout) -> None:
        super().__init__(fd, layout)
        buckets = layout.fields["buckets"]
        self._parts = _unpacker(layout, ("wait_ns", "sleep_ns", "vmm_ns"))
        self._head = _unpacker(layout, ("exits", "completed", "sum_ns", "code", "not_code", "slot_space", "next"))
        self._buckets = slice(buckets.offset, buckets.offset + buckets.size * buckets.items)
        self._seen: list[list[int]] = [[], []]
        self._last: set[int] = set()

    def changed(self) -> list[int]:
        """Numbers of the cells with events since the last call but one.

        It compares the columns with the columns of the last call, not with the values that read() has returned since
        then. So if an event comes between the two calls, its cell is read twice, but never missed. The cells that had
        changed in the last call are listed once more: a count may become visible before the buckets do.
        """
        columns = [self.column("exits"), self.column("completed")]
        for seen in self._seen:
            seen.extend([0] * (self.mapped - len(seen)))
        differ = map(or_, map(ne, columns[0], self._seen[0]), map(ne, columns[1], self._seen[1]))
        self._seen = columns
        changed = set(compress(range(self.mapped), differ))
        listed = sorted(changed | self._last)
        self._last = changed
        return listed

    def mark_changed(self, number: int) -> None:
        """Make the next changed() list this cell in any case."""
        self._seen[0][number] = -1

    def clear(self, number: int) -> None:
        """Fill a cell with zeros, and forget its columns: the next owner may reach the same counts as the last one."""
        super().clear(number)
        for seen in self._seen:
            if number < len(seen):
                seen[number] = 0
        self._last.discard(number)

    def read(self, number: int) -> tuple[Cell, int, int]:
        """Return a cell, the number of its slot, and the number of the next cell in its chain (0: none).

        The number of the slot is 0 if the cell is free, or if it was taken just now and is not complete yet.

        The sum of the buckets is `exits`, or one less while an exit is in progress. If the vCPU exits while this
        function reads, the numbers may differ by the exits of this moment. No exit is lost. The parts may exceed the
        sum for the same reason. Raises OSError if there is no memory to map.
        """
        self.map_up_to(number)
        start, size = number * self.layout.size, self._head.size
        memory = self.memory
        for _ in range(_TRIES):
            leaf = memory[start : start + self.layout.size]
            head = memory[start : start + size]
            if leaf.startswith(head):
                break
        exits, _, sum_ns, code, not_code, slot_space, following = self._head.unpack(head)
        slot = slot_space >> 32 if code ^ not_code == _ALL_BITS else 0
        wait_ns, sleep_ns, vmm_ns = self._parts.unpack_from(leaf)
        parts = TimeParts(wait_ns, wait_ns + sleep_ns, vmm_ns)
        return Cell(slot_space & 0xFFFFFFFF, code, exits, sum_ns, leaf[self._buckets], parts), slot, following


class SlotMap(ArrayMap):
    """The vCPU threads."""

    _in_use = "id"

    def __init__(self, fd: int, layout: LeafLayout) -> None:
        super().__init__(fd, layout)
        self._owner, self._guest, self._since, self._exit = (
            layout.fields[name].offset // 8 for name in ("owner", "guest", "since_ns", "exit")
        )
        self._vcpu_id = _unpacker(layout, ("vcpu_id_plus_1",))
        self._identity = _unpacker(layout, ("id", "born_ns", "comm", "check"))
        self._heads = _unpacker(layout, ("heads",))

    def used(self) -> list[int]:
        """Numbers of the slots that hold a thread, alive or dead."""
        return list(compress(range(self.mapped), self.column("id")))

    def read(self, number: int, now: int) -> SlotState:
        """Read a slot, and add the time until `now` to the guest time of a vCPU that is in its guest.

        If the words do not belong together in any try, the vCPU exits and enters within microseconds. Then the guest
        time may lack the last of them, and no exit is returned.
        """
        start = number * self.layout.size
        first = start // 8
        for _ in range(_TRIES):
            # Each item of this list is one load of an aligned 64-bit word.
            words = self._words[first : first + _LINE_WORDS].tolist()
            owner, since_ns = words[self._owner], words[self._since]
            state, value = words[self._guest] & (1 << _STATE_BITS) - 1, words[self._guest] >> _STATE_BITS
            check, cell = words[self._exit] >> 32, words[self._exit] & 0xFFFFFFFF
            if check == (since_ns + value) & 0xFFFFFFFF:
                break
        else:
            cell = since_ns = 0
        guest_ns = value
        if state == _STATE_GUEST:
            # If a thread ended in its guest, its last exit was missed. No time after its last entry is counted.
            guest_ns = max(0, max(0 if owner == OWNER_ENDED else now, since_ns) - value)
        (vcpu_id_plus_1,) = self._vcpu_id.unpack_from(self.memory, start)
        vcpu_id = vcpu_id_plus_1 - 1 if vcpu_id_plus_1 else None
        return SlotState(owner, vcpu_id, guest_ns, cell if state == _STATE_HOST else 0, since_ns)

    def identity(self, number: int) -> SlotIdentity | None:
        """Read which thread the slot belongs to; None if it was taken just now and is not complete yet.

        Raises OSError if there is no memory to map.
        """
        self.map_up_to(number)
        thread, born_ns, comm, check = self._identity.unpack_from(self.memory, number * self.layout.size)
        low, high = struct.unpack("=QQ", comm)
        if check != ~(thread + 3 * born_ns + 5 * low + 7 * high) & _ALL_BITS:
            return None
        return SlotIdentity(thread, born_ns, comm.split(b"\0", 1)[0])

    def end(self, number: int) -> None:
        """Mark the thread of a slot as ended, because the program missed its end."""
        self._words[number * self.layout.size // 8 + self._owner] = OWNER_ENDED

    def heads(self, number: int) -> list[int]:
        """Return the number of the first cell of each chain. Empty chains are left out."""
        return [cell for cell in self._heads.unpack_from(self.memory, number * self.layout.size) if cell]


class CounterMap(ArrayMap):
    """The counters of events that are in no cell."""

    def read(self) -> dict[str, int]:
        """Read every counter of struct counters, by name."""
        fields = self.layout.fields
        return dict(zip(fields, _unpacker(self.layout, tuple(fields)).unpack_from(self.memory)))
