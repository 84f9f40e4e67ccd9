"""BTF, the kernel's own description of its types: offsets of structure members, and arguments of functions.

The kernel shows its BTF in sysfs: kernel/btf/vmlinux, and a file for each module. The format is that of
include/uapi/linux/btf.h. A module's BTF continues that of vmlinux ("split BTF"): its type numbers and string offsets
begin behind those of vmlinux.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

_MAGIC = 0xEB9F
_MAX_BYTES = 1 << 27  # vmlinux has 5 to 10 MB
_MAX_DEPTH = 32
"""Longest chain of typedefs, pointers or arrays. A damaged file may have a cycle."""
_POINTER_BYTES = 8  # only 64-bit kernels are supported

_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_PAIR = struct.Struct("=II")


class BtfError(Exception):
    """There is no BTF, or it is damaged, or it lacks the type. The message is one line."""


class _Kind(IntEnum):
    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_TRANSPARENT = (_Kind.TYPEDEF, _Kind.VOLATILE, _Kind.CONST, _Kind.RESTRICT, _Kind.TYPE_TAG)
_COMPOSED = (_Kind.STRUCT, _Kind.UNION)
_SIZED = (_Kind.INT, _Kind.STRUCT, _Kind.UNION, _Kind.ENUM, _Kind.FLOAT, _Kind.ENUM64)

# Bytes that follow the head of a type: a fixed number, and a number for each of its `vlen` items.
_FIXED = {_Kind.INT: 4, _Kind.ARRAY: 12, _Kind.VAR: 4, _Kind.DECL_TAG: 4}
_EACH = {
    _Kind.STRUCT: 12,
    _Kind.UNION: 12,
    _Kind.ENUM: 8,
    _Kind.FUNC_PROTO: 8,
    _Kind.DATASEC: 12,
    _Kind.ENUM64: 12,
}


class Member(NamedTuple):
    """Where a member of a structure is: byte offset and bytes."""

    offset: int
    size: int


class _Type(NamedTuple):
    """The head of a type, and the place of its items in the file."""

    name: int
    kind: _Kind
    items: int
    """Number of members or parameters."""
    bitfields: bool
    """True if the offset of a member also has the bits of a bitfield."""
    other: int
    """Size in bytes, or the number of another type."""
    place: int


class Btf:
    """The types of vmlinux, or of one module."""

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        """Index the types of a file. A module's file needs the BTF of vmlinux as `base`. Raises BtfError."""
        self._data = data
        self._base = base
        try:
            magic, _, _, header, types, types_size, strings, strings_size = _HEADER.unpack_from(data)
        except struct.error as error:
            raise BtfError(f"BTF of {len(data)} bytes") from error
        if magic != _MAGIC:
            raise BtfError(f"no BTF of this machine's byte order (it begins with {data[:2].hex()})")
        begin, end = header + types, header + types + types_size
        self._strings = header + strings
        self._strings_end = self._strings + strings_size
        if max(end, self._strings_end) > len(data):
            raise BtfError("BTF that ends too early")
        self._first_string: int = base._next_string if base else 0
        self._next_string: int = self._first_string + strings_size
        self._first: int = base._next if base else 1
        self._places = _places(data, begin, end)
        self._next: int = self._first + len(self._places)

    def member(self, structure: str, path: str) -> Member:
        """Find a member of a structure, for example ("vcpu_vmx", "vt.exit_reason").

        The path may lead through structures and unions inside it, anonymous ones included, and not through pointers.
        Raises BtfError, also for a bitfield, and for two structures of this name with different layouts.
        """
        found = {self._walk(number, structure, path) for number in self._find(structure, _Kind.STRUCT)}
        if len(found) > 1:
            raise BtfError(f"struct {structure} has more than one layout")
        for member in found:
            return member
        raise BtfError(f"no struct {structure}")

    def tracepoint_arguments(self, event: str) -> tuple[str, ...]:
        """Return the types of a raw tracepoint's arguments, for example ("struct kvm_vcpu *", "unsigned int").

        The kernel declares a typedef btf_trace_<event> for each tracepoint (include/trace/bpf_probe.h). Typedefs and
        qualifiers in the arguments are resolved. Raises BtfError.
        """
        name = f"btf_trace_{event}"
        found = {self._arguments(number, name) for number in self._find(name, _Kind.TYPEDEF)}
        if len(found) > 1:
            raise BtfError(f"{name} has more than one prototype")
        for arguments in found:
            return arguments
        raise BtfError(f"no typedef {name}")

    def _find(self, name: str, kind: _Kind) -> list[int]:
        """Return the types of this name and kind: the module's own, or else those of vmlinux."""
        wanted = set(self._string_offsets(name.encode()))
        data, unpack = self._data, _PAIR.unpack_from
        found = []
        for index, place in enumerate(self._places):
            text, info = unpack(data, place)
            if text in wanted and info >> 24 & 31 == kind:
                found.append(self._first + index)
        return found or (self._base._find(name, kind) if self._base else [])

    def _string_offsets(self, text: bytes) -> Iterator[int]:
        """Return the offsets at which types of this file refer to a text."""
        if self._base:
            yield from self._base._string_offsets(text)
        if self._data.startswith(text + b"\0", self._strings, self._strings_end):
            yield self._first_string
        at = self._data.find(b"\0" + text + b"\0", self._strings, self._strings_end)
        if at >= 0:
            yield self._first_string + at + 1 - self._strings

    def _text(self, offset: int) -> str:
        if self._base and offset < self._first_string:
            return self._base._text(offset)
        start = self._strings + offset - self._first_string
        end = self._data.find(b"\0", start, self._strings_end)
        if not self._strings <= start < self._strings_end or end < 0:
            raise BtfError(f"BTF without the string {offset}")
        return self._data[start:end].decode(errors="replace")

    def _type(self, number: int) -> _Type:
        if number == 0:
            return _Type(0, _Kind.VOID, 0, False, 0, 0)
        if self._base and number < self._first:
            return self._base._type(number)
        if number >= self._next:
            raise BtfError(f"BTF without the type {number}")
        place = self._places[number - self._first]
        name, info, other = _TYPE.unpack_from(self._data, place)
        return _Type(name, _Kind(info >> 24 & 31), info & 0xFFFF, bool(info >> 31), other, place + _TYPE.size)

    def _data_of(self, number: int) -> bytes:
        """Return the bytes of the file that has this type."""
        return self._base._data_of(number) if self._base and number < self._first else self._data

    def _resolved(self, number: int) -> int:
        """Follow typedefs and qualifiers."""
        for _ in range(_MAX_DEPTH):
            found = self._type(number)
            if found.kind not in _TRANSPARENT:
                return number
            number = found.other
        raise BtfError("BTF with a typedef of itself")

    def _size(self, number: int) -> int:
        items = 1
        for _ in range(_MAX_DEPTH):
            number = self._resolved(number)
            found = self._type(number)
            if found.kind in _SIZED:
                return items * found.other
            if found.kind == _Kind.PTR:
                return items * _POINTER_BYTES
            if found.kind != _Kind.ARRAY:
                break
            number, _, length = _TYPE.unpack_from(self._data_of(number), found.place)
            items *= length
        raise BtfError(f"BTF with a member of kind {found.kind.name}")

    def _walk(self, number: int, structure: str, path: str) -> Member:
        offset = 0
        for name in path.split("."):
            place = self._member(number, name, set())
            if place is None:
                raise BtfError(f"struct {structure} has no member {path}")
            offset, number = offset + place[0], place[1]
        return Member(offset, self._size(number))

    def _member(self, number: int, name: str, seen: set[int]) -> tuple[int, int] | None:
        """Return byte offset and type of a member, also of an anonymous one's; None if there is no such member.

        A damaged file may have a structure inside itself: `seen` has all that were searched.
        """
        number = self._resolved(number)
        composed = self._type(number)
        if composed.kind not in _COMPOSED or number in seen:
            return None
        seen.add(number)
        data = self._data_of(number)
        for index in range(composed.items):
            text, kind, bits = _TYPE.unpack_from(data, composed.place + index * _TYPE.size)
            label = self._text(text)
            if label not in ("", name):
                continue
            width = bits >> 24 if composed.bitfields else 0
            start = bits & 0xFFFFFF if composed.bitfields else bits
            if label:
                if width or start % 8 or self._is_bitfield(kind):
                    raise BtfError(f"{name} is a bitfield")
                return start // 8, kind
            inner = self._member(kind, name, seen)
            if inner is not None:
                return start // 8 + inner[0], inner[1]
        return None

    def _is_bitfield(self, number: int) -> bool:
        """Return True for an integer with fewer bits than its bytes have, the older form of a bitfield."""
        number = self._resolved(number)
        found = self._type(number)
        if found.kind != _Kind.INT:
            return False
        (encoding,) = struct.unpack_from("=I", self._data_of(number), found.place)
        return bool(encoding >> 16 & 0xFF) or encoding & 0xFF != found.other * 8

    def _arguments(self, number: int, name: str) -> tuple[str, ...]:
        pointer = self._type(self._resolved(number))
        number = self._resolved(pointer.other) if pointer.kind == _Kind.PTR else 0
        prototype = self._type(number)
        if prototype.kind != _Kind.FUNC_PROTO:
            raise BtfError(f"{name} is no pointer to a function")
        data = self._data_of(number)
        kinds = [_PAIR.unpack_from(data, prototype.place + index * _PAIR.size)[1] for index in range(prototype.items)]
        arguments = tuple(self._described(kind) for kind in kinds)
        if arguments[:1] != ("void *",):  # the data of the probe, which a BPF program does not get
            raise BtfError(f"{name} has no first argument void *")
        return arguments[1:]

    def _described(self, number: int) -> str:
        """Return a type as C writes it, without typedefs and qualifiers."""
        stars = ""
        for _ in range(_MAX_DEPTH):
            found = self._type(self._resolved(number))
            if found.kind != _Kind.PTR:
                break
            number, stars = found.other, stars + "*"
        keyword = {_Kind.STRUCT: "struct", _Kind.UNION: "union", _Kind.ENUM: "enum", _Kind.VOID: "void"}
        # A FWD is a structure, or with bit 31 of its head a union, of which only the name is known.
        forward = "union" if found.bitfields else "struct"
        words = [keyword.get(found.kind, forward if found.kind == _Kind.FWD else ""), self._text(found.name)]
        return " ".join(word for word in (*words, stars) if word)


def _places(data: bytes, begin: int, end: int) -> array[int]:
    """Return the offset of each type of a file. Raises BtfError."""
    fixed, each = [0] * 32, [0] * 32
    for kind, size in _FIXED.items():
        fixed[kind] = size
    for kind, size in _EACH.items():
        each[kind] = size
    places = array("I")
    unpack, last = _TYPE.unpack_from, max(_Kind)
    at = begin
    while at + _TYPE.size <= end:
        places.append(at)
        _, info, _ = unpack(data, at)
        number = info >> 24 & 31
        if not 0 < number <= last:
            raise BtfError(f"BTF with a type of the unknown kind {number}")
        at += _TYPE.size + fixed[number] + each[number] * (info & 0xFFFF)
    if at != end:
        raise BtfError("BTF whose last type ends too early")
    return places


class KernelBtf:
    """The BTF of the running kernel, read when it is asked for."""

    def __init__(self, sysfs: Path) -> None:
        """`sysfs` is the root of sysfs."""
        self._sysfs = sysfs
        self._files: dict[str, Btf] = {}

    def loaded(self, module: str) -> bool:
        """Return True if the kernel has this module, loaded or built in. A module without parameters is not found."""
        return (self._sysfs / "module" / module).exists()

    def of(self, module: str) -> Btf:
        """Return the BTF that has the types of a module: its own, or that of vmlinux, which has all built-in ones.

        Raises BtfError.
        """
        name = module if (self._sysfs / "kernel/btf" / module).exists() else "vmlinux"
        found = self._files.get(name)
        if found is None:
            base = self.of("vmlinux") if name != "vmlinux" else None
            found = self._files[name] = Btf(self._read(name), base)
        return found

    def _read(self, name: str) -> bytes:
        path = self._sysfs / "kernel/btf" / name
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise BtfError(f"{path}: {error.strerror}") from error
        if len(data) > _MAX_BYTES:
            raise BtfError(f"{path} has more than {_MAX_BYTES >> 20} MiB")
        return data
