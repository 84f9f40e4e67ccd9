"""The program's array maps, mapped into this process. So reading a key takes no system call.

Layouts come from bcc (program.LeafLayout), so that every structure is declared once, in kernel/bpf/maps.bpf.h. A vCPU
continues to write while this process reads. on_exit() and on_entry() of kernel/bpf/count.bpf.c define the order of its
writes.
"""

from __future__ import annotations

import mmap
import struct
from itertools import compress
from operator import ne, or_
from typing import Literal, NamedTuple

from exporter.kernel.program import LeafField, LeafLayout
from exporter.model.records import Cell, VcpuTotals

_TRIES = 8
"""How many times a cell or slot is read at most, if it changes while it is read. One try takes about a microsecond."""

NO_VCPU_ID = 0xFFFFFFFF
"""Stands in a slot for a vcpu_id that the tracepoint does not have."""
_CODES = {4: "I", 8: "Q"}
_FIRST_BYTES = 1 << 18
"""Bytes of an array that are mapped at the start: 200 cells, or 680 vCPUs."""


class SlotState(NamedTuple):
    """The members of a slot that change, at one moment between two events of its vCPU."""

    owner: int
    state: int
    since_ns: int
    exit_cell: int
    user_cell: int
    vcpu_id: int
    totals: VcpuTotals


class SlotIdentity(NamedTuple):
    """The members of a slot that stay the same while a thread uses it."""

    tid: int
    tgid: int
    born_ns: int
    comm: bytes


STATE_GUEST = 1
STATE_HOST = 2


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
        self._view = memoryview(memory)

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
        """Read one member of every mapped leaf."""
        if name not in self._columns:
            field = self.layout.fields[name]
            code: Literal["I", "Q"] = "I" if field.size == 4 else "Q"
            items = self._view.cast(code)[field.offset // field.size :: self.layout.size // field.size]
            self._columns[name] = items[: self.mapped]
        return self._columns[name].tolist()

    def clear(self, number: int) -> None:
        """Fill a leaf with zeros. No thread may write to it any more."""
        start = number * self.layout.size
        self.memory[start : start + self.layout.size] = bytes(self.layout.size)

    def close(self) -> None:
        """Unmap. The kernel frees the map when its last descriptor is closed."""
        self._columns.clear()
        self._view.release()
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

    _in_use = "slot"

    def __init__(self, fd: int, layout: LeafLayout) -> None:
        super().__init__(fd, layout)
        buckets = layout.fields["buckets"]
        self._head = _unpacker(layout, ("exits", "completed", "sum_ns", "code", "space", "next", "slot"))
        self._buckets = slice(buckets.offset, buckets.offset + buckets.size * buckets.items)
        self._seen: list[list[int]] = [[], []]

    def changed(self) -> list[int]:
        """Numbers of the cells with events since the last call.

        It compares the columns with the columns of the last call, not with the values that read() has returned since
        then. So if an event comes between the two calls, its cell is read twice, but never missed.
        """
        columns = [self.column("exits"), self.column("completed")]
        for seen in self._seen:
            seen.extend([0] * (self.mapped - len(seen)))
        differ = map(or_, map(ne, columns[0], self._seen[0]), map(ne, columns[1], self._seen[1]))
        self._seen = columns
        return list(compress(range(self.mapped), differ))

    def mark_changed(self, number: int) -> None:
        """Make the next changed() list this cell in any case."""
        self._seen[0][number] = -1

    def clear(self, number: int) -> None:
        """Fill a cell with zeros, and forget its columns: the next owner may reach the same counts as the last one."""
        super().clear(number)
        for seen in self._seen:
            if number < len(seen):
                seen[number] = 0

    def read(self, number: int) -> tuple[Cell, int, int]:
        """Return a cell, the number of its slot, and the number of the next cell in its chain (0: none).

        The sum of the buckets is `exits`, or one less while an exit is in progress. The sum can be even lower if the
        vCPU exits faster than this function reads. `exits` is then newer than the buckets, and no exit is lost.
        Raises OSError if there is no memory to map.
        """
        self.map_up_to(number)
        start, size = number * self.layout.size, self._head.size
        memory = self.memory
        for _ in range(_TRIES):
            leaf = memory[start : start + self.layout.size]
            head = memory[start : start + size]
            if leaf.startswith(head):
                break
        exits, _, sum_ns, code, space, following, slot = self._head.unpack(head)
        return Cell(space, code, exits, sum_ns, leaf[self._buckets]), slot, following


class SlotMap(ArrayMap):
    """The vCPU threads."""

    _in_use = "tid"

    def __init__(self, fd: int, layout: LeafLayout) -> None:
        super().__init__(fd, layout)
        self._state = _unpacker(layout, SlotState._fields[:-1])
        self._totals = _unpacker(layout, VcpuTotals._fields)
        self._changing_bytes = max(self._state.size, self._totals.size)
        self._identity = _unpacker(layout, SlotIdentity._fields)
        self._heads = _unpacker(layout, ("heads",))
        self._died = _unpacker(layout, ("died_ns",))

    def used(self) -> list[int]:
        """Numbers of the slots that hold a thread, alive or dead."""
        return list(compress(range(self.mapped), self.column("tid")))

    def read(self, number: int) -> SlotState:
        """Read a slot between two events of its vCPU, so that state, since_ns and totals belong together."""
        start = number * self.layout.size
        end = start + self._changing_bytes
        memory = self.memory
        for _ in range(_TRIES):
            leaf = memory[start:end]
            if leaf == memory[start:end]:
                break
        totals = VcpuTotals._make(self._totals.unpack_from(leaf))
        return SlotState._make((*self._state.unpack_from(leaf), totals))

    def identity(self, number: int) -> SlotIdentity:
        """Read which thread the slot belongs to. Raises OSError if there is no memory to map."""
        self.map_up_to(number)
        tid, tgid, born_ns, comm = self._identity.unpack_from(self.memory, number * self.layout.size)
        return SlotIdentity(tid, tgid, born_ns, comm.split(b"\0", 1)[0])

    def died(self, number: int) -> bool:
        """True if the thread of a slot has ended.

        If a slot has no owner and no time of death, the program is just taking it.
        """
        return self._died.unpack_from(self.memory, number * self.layout.size) != (0,)

    def heads(self, number: int) -> list[int]:
        """Return the number of the first cell of each chain. Empty chains are left out."""
        return [cell for cell in self._heads.unpack_from(self.memory, number * self.layout.size) if cell]


class CounterMap(ArrayMap):
    """The counters of events that are in no cell."""

    def read(self) -> dict[str, int]:
        """Read every counter of struct counters, by name."""
        fields = self.layout.fields
        return dict(zip(fields, _unpacker(self.layout, tuple(fields)).unpack_from(self.memory)))
