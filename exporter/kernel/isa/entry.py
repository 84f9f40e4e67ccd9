"""The form of an entry in the registry of instruction sets (ISAs): plain data and small functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.kernel.btf import KernelBtf
from exporter.kernel.tracepoint import RecordField
from exporter.model.reason import Space

Fields = Mapping[str, RecordField]
"""Fields of the record of kvm:kvm_exit, by name."""

EncodeExit = Callable[[int, int, int], bytes]
"""A function from (space, code, vcpu_id) to the arguments that the front reads in a replay.

Raises ValueError for an exit of another ISA.
"""

Version = tuple[int, int, int]
"""Version of a kernel, for example (6, 1, 0)."""


class HostFront(NamedTuple):
    """The way in which the front reads kvm:kvm_exit on one host."""

    defines: Mapping[str, int]
    """C macros of the front."""
    vcpu_ids: bool
    """True if the front reads the kernel's vcpu_id."""
    classic_reason: str = ""
    """The reason for reading the classic tracepoint instead of the raw one; "" if the front reads the raw one."""


def begins_with(fields: Fields, *expected: tuple[str, int]) -> bool:
    """Return True if the fields behind the common ones are these first: name and size in bytes, without a gap."""
    own = sorted((each for each in fields.values() if not each.name.startswith("common_")), key=lambda it: it.offset)
    if len(own) < len(expected):
        return False
    end = own[0].offset if own else 0
    for found, (name, size) in zip(own, expected):
        if (found.name, found.offset, found.size) != (name, end, size):
            return False
        end += size
    return True


def unknown(code: int) -> str:
    """Return the name of a code that has no other name."""
    return f"UNKNOWN_0x{code:x}"


@dataclass(frozen=True)
class FlagBits:
    """Bits above the code in the same number. The kernel prints them with __print_flags(), after the code's name."""

    code_mask: int
    """Bits of the code; all other bits are flags."""
    table: str
    """Expression of the kernel's table of flags in the print fmt."""
    names: Mapping[int, str]
    """Built-in names by mask."""


@dataclass(frozen=True)
class OlderTable:
    """Where the table of names is in the print fmt of older kernels."""

    mark: str
    """An expression that has a table in the print fmt of these kernels only."""
    table: str
    """Expression of the table of names in that print fmt."""


@dataclass(frozen=True)
class CodeSpace:
    """The codes of one space: names, classes, and the rules by which a name is made."""

    space: Space
    by_class: Mapping[str, Mapping[int, str]]
    """Class -> code -> built-in name. A code that is not listed has the class "other"."""
    table: str = ""
    """Expression of the kernel's table of names in the print fmt; "" if the kernel has no table."""
    older: OlderTable | None = None
    prefix: str = ""
    """The beginning that is added to each name, from the kernel's table or built in."""
    fixed: Mapping[int, str] = field(default_factory=dict)
    """Names that neither a table nor the prefix changes."""
    unnamed: Callable[[int], str] = unknown
    """Makes the name of a code that is in no table. No two codes may get the same name."""
    reserved: tuple[str, ...] = ()
    """Beginnings of the names that these rules make.

    If a name from the kernel begins like that, its code is appended to it.
    """
    flags: FlagBits | None = None

    def table_in(self, tables: Mapping[str, Mapping[int, str]]) -> Mapping[int, str]:
        """Return the kernel's table of names. `tables` are those of a print fmt, see TracepointFormat.symbols."""
        if self.older and self.older.mark in tables:
            return tables.get(self.older.table, {})
        return tables.get(self.table, {})

    def names(self) -> dict[int, str]:
        """Return code -> built-in name."""
        return {code: name for codes in self.by_class.values() for code, name in codes.items()}

    def classes(self) -> dict[int, str]:
        """Return code -> class."""
        return {code: klass for klass, codes in self.by_class.items() for code in codes}


@dataclass(frozen=True)
class Isa:
    """All facts about an instruction set that the exporter uses.

    Kernels can have a kvm:kvm_exit of their own for the same instruction set. Such a variant is an entry too, with its
    own front, but without machines and spaces: these are in the first entry.
    """

    name: str
    """Short name. The C compiler gets it in capitals, as FRONT_<NAME>."""
    machines: tuple[str, ...]
    """Machine names, as `uname -m` prints them."""
    bpf_syscall: int
    """Number of the system call bpf(2)."""
    perf_event_open_syscall: int
    """Number of the system call perf_event_open(2)."""
    front: str
    """C file in exporter/kernel/bpf with the program for kvm:kvm_exit."""
    recognise: Callable[[Fields], bool]
    """Returns True if the front can read a kvm:kvm_exit with these fields.

    Names alone are not enough: order, sizes and offsets must be those that the front reads.
    """
    host_front: Callable[[Fields, KernelBtf, Version | None], HostFront]
    """Returns how the front reads kvm:kvm_exit on a host with these fields, this BTF and this kernel version."""
    uses_btf: bool
    """True if host_front reads BTF."""
    replay_defines: Mapping[str, int]
    """C macros of the front in a replay, where it reads the arguments that encode_exit makes."""
    encode_exit: EncodeExit
    spaces: tuple[CodeSpace, ...]
    """Spaces of its exit codes."""
    kvm_remedy: str
    """Remedy for a kernel without the tracepoints of KVM."""
