"""The collector's arrays in plain memory. A test writes each member of a slot or cell by itself, without a kernel."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from exporter.collect.maps import OWNER_ENDED
from exporter.kernel.program import LeafField, LeafLayout, Loaded
from tests.support.exits import BUCKETS

FRESH, GUEST, HOST, NO_REASON = range(4)
"""enum vcpu_state of maps.bpf.h."""
ALL_BITS = 2**64 - 1
PID = 1009
NO_MAP = 2**31 - 1
"""No descriptor has this number: bpf(2) raises OSError."""

_CODES = {1: "B", 4: "I", 8: "Q"}
_CELL = {"exits": 8, "completed": 8, "sum_ns": 8, "code": 8, "not_code": 8, "slot_space": 8, "next": 4, "pad0": 4}
_SLOT = {
    **{"owner": 8, "guest": 8, "since_ns": 8, "exit": 8},
    **{"user_cell": 4, "vcpu_id_plus_1": 4, "number": 4, "pad0": 4, "id": 8, "born_ns": 8},
}
_COUNTERS = {"dropped_no_slot": 8, "unmatched_exit": 8}


def _layout(entries: int, members: Mapping[str, int | tuple[int, int]]) -> LeafLayout:
    """Return the layout of a leaf with these members: bytes of an item, and number of items if it is an array."""
    fields, at = {}, 0
    for name, form in members.items():
        size, items = form if isinstance(form, tuple) else (form, 1)
        fields[name] = LeafField(at, size, items)
        at += size * items
    return LeafLayout((at + 63) // 64 * 64, entries, fields)


class Leaves:
    """Slots, cells and counters. Numbers begin at 1, as in the program."""

    def __init__(self, slots: int = 3, cells: int = 5) -> None:
        self._stack = ExitStack()
        self.layouts = {
            "slots": _layout(slots + 1, {**_SLOT, "comm": (1, 16), "check": 8, "heads": (4, 64)}),
            "cells": _layout(cells + 1, {**_CELL, "buckets": (8, BUCKETS), "wait_ns": 8, "sleep_ns": 8, "vmm_ns": 8}),
            "counters": _layout(1, _COUNTERS),
            "usage": _layout(1, {"slots": 8, "cells": 8}),
        }
        self.fds = dict.fromkeys(("free_slots", "free_cells", "shares", "process_drops"), NO_MAP)
        self._memory = {}
        for name, layout in self.layouts.items():
            fd = os.memfd_create(name)
            self._stack.callback(os.close, fd)
            pages = (layout.size * layout.entries + mmap.PAGESIZE - 1) // mmap.PAGESIZE
            os.truncate(fd, pages * mmap.PAGESIZE)
            self._memory[name] = self._stack.enter_context(mmap.mmap(fd, 0))
            self.fds[name] = fd
        self.loaded = Loaded(self.fds, self.layouts, {}, {})

    def close(self) -> None:
        self._stack.close()

    def put(self, array: str, number: int, /, **members: int | bytes | Mapping[int, int]) -> None:
        """Write members of a leaf. A mapping has the items of an array that are not 0."""
        layout = self.layouts[array]
        for name, value in members.items():
            field = layout.fields[name]
            at = number * layout.size + field.offset
            if isinstance(value, int):
                struct.pack_into("=" + _CODES[field.size], self._memory[array], at, value)
            elif isinstance(value, bytes):
                self._memory[array][at : at + field.items] = value.ljust(field.items, b"\0")
            else:
                items = [value.get(item, 0) for item in range(field.items)]
                struct.pack_into(f"={field.items}{_CODES[field.size]}", self._memory[array], at, *items)

    def leaf(self, array: str, number: int) -> bytes:
        size = self.layouts[array].size
        return self._memory[array][number * size : (number + 1) * size]

    def put_cell(
        self, number: int, slot: int, space: int, code: int, exits: int = 0, *, following: int = 0,
        buckets: Mapping[int, int] | None = None,
    ) -> None:  # fmt: skip
        """Write a complete cell."""
        counts = buckets or {}
        self.put(
            *("cells", number), exits=exits, completed=sum(counts.values()), code=code, not_code=code ^ ALL_BITS,
            slot_space=slot << 32 | space, next=following, buckets=counts,
        )  # fmt: skip

    def put_slot(self, number: int, tid: int, *, born_ns: int = 1, comm: bytes = b"", **members: Any) -> None:
        """Write the identity of a slot with its check, and other members."""
        low, high = struct.unpack("=QQ", comm.ljust(16, b"\0"))
        thread = PID << 32 | tid
        check = (thread + 3 * born_ns + 5 * low + 7 * high) & ALL_BITS ^ ALL_BITS
        owner = {"owner": thread, **members}
        self.put("slots", number, number=number, id=thread, born_ns=born_ns, comm=comm, check=check, **owner)

    def put_state(self, number: int, state: int, value: int, since_ns: int, cell: int = 0) -> None:
        """Write the words of a state with their check.

        `value` is the guest time. In the guest it is the time of its start: see set_state() in count.bpf.c.
        """
        check = (since_ns + value) & 0xFFFFFFFF
        self.put("slots", number, guest=value << 2 | state, since_ns=since_ns, exit=check << 32 | cell)

    def end_slot(self, number: int) -> None:
        self.put("slots", number, owner=OWNER_ENDED)


class Watched:
    """Memory that calls a function before each read of a slice, with the number of the read (the first is 1)."""

    def __init__(self, memory: Any, before: Callable[[int], None]) -> None:
        self._memory = memory
        self._before = before
        self.reads = 0

    def __getitem__(self, part: slice) -> Any:
        self.reads += 1
        self._before(self.reads)
        return self._memory[part]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)
