"""The program's array maps, mapped into this process: kernel memory read as it stands, no system call per key.

Layouts come from bcc (program.Layout), so that every structure is declared once, in kvm_exit.bpf.c.
A vCPU goes on writing while it is read. The kernel side of every statement here about what
can be seen is in on_exit() and on_entry() of that file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

from exporter.program import Field, Layout
from exporter.records import Cell

_TRIES = 8
"""Of reading a cell or slot that changes under the reader's hands; a try takes about a microsecond."""

NO_VCPU_ID = 0xFFFFFFFF
_CODES = {4: "I", 8: "Q"}


class Slot(NamedTuple):
    """One vCPU thread's state, as of one moment."""

    owner: int
    state: int
    since_ns: int
    guest_ns: int
    exit_cell: int
    vcpu_id: int
    tid: int
    tgid: int
    born_ns: int
    died_ns: int
    comm: bytes
    cells: tuple[int, ...]
    """Heads of the chains of cells, without the empty ones."""


STATE_GUEST = 1
STATE_HOST = 2


class ArrayMap:
    """One mmap'd BPF array (BPF_F_MMAPABLE, Linux 5.5): leaf `i` lies at `i * layout.size`."""

    def __init__(self, fd: int, layout: Layout) -> None:
        self.layout = layout
        page = mmap.PAGESIZE
        length = (layout.size * layout.entries + page - 1) // page * page
        self.memory = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def column(self, name: str) -> list[int]:
        """One member of every leaf, read in one sweep."""
        field = self.layout.fields[name]
        code: Literal["I", "Q"] = "I" if field.size == 4 else "Q"
        with memoryview(self.memory) as view, view.cast(code) as items:
            step = self.layout.size // field.size
            with items[field.offset // field.size :: step] as column:
                return column.tolist()[: self.layout.entries]

    def clear(self, number: int) -> None:
        """Zero a leaf that no thread can write to any more."""
        start = number * self.layout.size
        self.memory[start : start + self.layout.size] = bytes(self.layout.size)

    def close(self) -> None:
        """Unmap. The kernel frees the map with its last descriptor."""
        self.memory.close()


def _unpacker(layout: Layout, names: tuple[str, ...]) -> struct.Struct:
    """A Struct that reads the named members, which must stand in this order, from a leaf."""
    form, at = "=", 0
    for name in names:
        field: Field = layout.fields[name]
        form += f"{field.offset - at}x"
        if field.size == 1:
            form += f"{field.items}s"
        else:
            form += f"{field.items}{_CODES[field.size]}"
        at = field.offset + field.size * field.items
    return struct.Struct(form)


class Cells(ArrayMap):
    """The pool of cells."""

    def __init__(self, fd: int, layout: Layout) -> None:
        super().__init__(fd, layout)
        buckets = layout.fields["buckets"]
        self._head = _unpacker(layout, ("exits", "code", "space", "next", "sum_ns"))
        self._buckets = slice(buckets.offset, buckets.offset + buckets.size * buckets.items)

    def read(self, number: int) -> tuple[Cell, int]:
        """Return a cell and the number of the next in its chain (0: none).

        The buckets never hold more than `exits`, and one less at most, unless the vCPU exits faster than
        this can read: then `exits` is the newer of the two, and the difference is still no loss.
        """
        start, size = number * self.layout.size, self._head.size
        memory = self.memory
        for _ in range(_TRIES):
            leaf = memory[start : start + self.layout.size]
            head = memory[start : start + size]
            if leaf.startswith(head):
                break
        exits, code, space, following, sum_ns = self._head.unpack(head)
        return Cell(space, code, exits, sum_ns, leaf[self._buckets]), following

    def chain(self, first: int) -> Iterator[tuple[int, Cell]]:
        """Walk a chain from its head. The program bounds its length, a damaged one must not hang us."""
        for _ in range(64):
            if not 0 < first < self.layout.entries:
                return
            cell, following = self.read(first)
            yield first, cell
            first = following


class Slots(ArrayMap):
    """The vCPU threads."""

    def __init__(self, fd: int, layout: Layout) -> None:
        super().__init__(fd, layout)
        self._hot = _unpacker(layout, ("owner", "state", "since_ns", "guest_ns", "exit_cell"))
        self._all = _unpacker(
            layout,
            (
                *("owner", "state", "since_ns", "guest_ns", "exit_cell"),
                *("vcpu_id", "tid", "tgid", "born_ns", "died_ns", "comm", "heads"),
            ),
        )

    def used(self) -> list[int]:
        """Numbers of the slots that hold a thread, alive or dead."""
        return [number for number, tid in enumerate(self.column("tid")) if tid]

    def read(self, number: int) -> Slot:
        """Read a slot between two events of its vCPU: state, since_ns and guest_ns belong together."""
        start, size = number * self.layout.size, self._hot.size
        memory = self.memory
        for _ in range(_TRIES):
            leaf = memory[start : start + self._all.size]
            if leaf.startswith(memory[start : start + size]):
                break
        values = self._all.unpack(leaf)
        comm: bytes = values[10]
        heads = tuple(cell for cell in values[11:] if cell)
        numbers: tuple[int, int, int, int, int, int, int, int, int, int] = values[:10]
        return Slot(*numbers, comm.split(b"\0", 1)[0], heads)


class Counters(ArrayMap):
    """Events that are in no cell, by name."""

    def read(self) -> dict[str, int]:
        """Every counter of struct counters."""
        fields = self.layout.fields
        return dict(zip(fields, _unpacker(self.layout, tuple(fields)).unpack_from(self.memory)))
