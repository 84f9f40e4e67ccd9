"""Writes BTF files (include/uapi/linux/btf.h), and the parts of sysfs in which a kernel shows them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

Members = Mapping[str, tuple[int, int]]
"""Type and bit offset of each member, by name. Several anonymous members have names of spaces."""

INT, PTR, ARRAY, STRUCT, UNION, FWD, TYPEDEF, CONST, FUNC_PROTO = 1, 2, 3, 4, 5, 7, 8, 10, 13


class BtfFile:
    """The types of one file. Each method that adds a type returns its number."""

    def __init__(self, base: BtfFile | None = None) -> None:
        self._base = base
        self._first = base.next_type if base else 1
        self._first_string = base.next_string if base else 0
        self._strings = b"" if base else b"\0"
        self._types: list[bytes] = []

    @property
    def next_type(self) -> int:
        return self._first + len(self._types)

    @property
    def next_string(self) -> int:
        return self._first_string + len(self._strings)

    def _text(self, text: str) -> int:
        if not text:
            return 0
        at = (b"\0" + self._strings).find(b"\0" + text.encode() + b"\0")
        if at < 0:
            at = len(self._strings)
            self._strings += text.encode() + b"\0"
        return self._first_string + at

    def add(self, kind: int, name: str, other: int, *items: bytes, count: int | None = None, flag: int = 0) -> int:
        number = len(items) if count is None else count
        head = struct.pack("=III", self._text(name), flag << 31 | kind << 24 | number, other)
        self._types.append(head + b"".join(items))
        return self.next_type - 1

    def integer(self, name: str, size: int, bits: int | None = None) -> int:
        encoding = size * 8 if bits is None else bits
        return self.add(INT, name, size, struct.pack("=I", encoding), count=0)

    def pointer(self, to: int) -> int:
        return self.add(PTR, "", to)

    def typedef(self, name: str, of: int) -> int:
        return self.add(TYPEDEF, name, of)

    def const(self, of: int) -> int:
        return self.add(CONST, "", of)

    def forward(self, name: str) -> int:
        return self.add(FWD, name, 0)

    def array(self, of: int, length: int) -> int:
        return self.add(ARRAY, "", 0, struct.pack("=III", of, of, length), count=0)

    def struct(self, name: str, size: int, members: Members, *, kind: int = STRUCT, flag: int = 0) -> int:
        items = [struct.pack("=III", self._text(name.strip()), of, bits) for name, (of, bits) in members.items()]
        return self.add(kind, name, size, *items, flag=flag)

    def union(self, name: str, size: int, members: Members) -> int:
        return self.struct(name, size, members, kind=UNION)

    def prototype(self, *arguments: int) -> int:
        return self.add(FUNC_PROTO, "", 0, *(struct.pack("=II", 0, of) for of in arguments))

    def tracepoint(self, event: str, *arguments: int) -> int:
        """Add the typedef of a tracepoint, a pointer to a function whose first argument is void *."""
        return self.typedef(f"btf_trace_{event}", self.pointer(self.prototype(self.pointer(0), *arguments)))

    def content(self) -> bytes:
        types = b"".join(self._types)
        header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self._strings))
        return header + types + self._strings


def write(sysfs: Path, **files: BtfFile) -> None:
    """Write the files as those of modules, and that of vmlinux."""
    folder = sysfs / "kernel/btf"
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        (folder / name).write_bytes(file.content())


def load_module(sysfs: Path, name: str) -> None:
    """Let sysfs have a module."""
    (sysfs / "module" / name).mkdir(parents=True)


SCHEDULER_OFFSETS = {
    "SCHED_INFO_OFFSET": 104,
    "ARRIVAL_OFFSET": 120,
    "EXEC_OFFSET": 24,
    "PREV_SUM_OFFSET": 48,
    "NVCSW_OFFSET": 200,
}
"""Where scheduler_btf() has the members, by the macros of exporter/kernel/time_split.py."""


def scheduler_btf(*, run_delay: int = 64, sum_exec_runtime: int = 128, narrow: str = "") -> BtfFile:
    """Return the types of a kernel that has the scheduler's figures of a thread.

    Two members may be at other bits of their structs. The member `narrow` has four bytes.
    """
    file = BtfFile()
    u32, u64 = file.integer("unsigned int", 4), file.integer("unsigned long long", 8)

    def at(**bits: int) -> dict[str, tuple[int, int]]:
        return {name: (u32 if name == narrow else u64, bit) for name, bit in bits.items()}

    info = file.struct("sched_info", 40, at(pcount=0, run_delay=run_delay, last_arrival=128, last_queued=192))
    members = at(exec_start=64, sum_exec_runtime=sum_exec_runtime, prev_sum_exec_runtime=256)
    entity = file.struct("sched_entity", 48, members)
    task = {"se": (entity, 16 * 8), "sched_info": (info, 104 * 8), **at(nvcsw=200 * 8)}
    file.struct("task_struct", 256, task)
    return file
