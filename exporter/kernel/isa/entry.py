"""The form of an entry in the registry of instruction sets (ISAs): plain data and small functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from exporter.kernel.tracepoint import RecordField
from exporter.model.reason import Space

Fields = Mapping[str, RecordField]
"""Fields of the record of kvm:kvm_exit, by name."""

EncodeExit = Callable[[int, int, int], bytes]
"""From (space, code, vcpu_id) to the context that the front reads. Raises ValueError for an exit of another ISA."""


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
    """Stands in front of each name, of the kernel's table or built in."""
    fixed: Mapping[int, str] = field(default_factory=dict)
    """Names that no table and no prefix changes."""
    unnamed: Callable[[int], str] = unknown
    """Makes the name of a code that is in no table. No two codes may get the same name."""
    reserved: tuple[str, ...] = ()
    """Beginnings of names that these rules make. If a kernel's name begins like that, its code is appended to it."""
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
    """All that the exporter knows of an instruction set.

    Kernels can have a kvm:kvm_exit of their own for the same instruction set. Such a variant is an entry too, with a
    front of its own and without machines and spaces: these are in the first entry.
    """

    name: str
    """Short name. The C compiler gets it in capitals, as FRONT_<NAME>."""
    machines: tuple[str, ...]
    """Machine names, as `uname -m` prints them."""
    bpf_syscall: int
    """Number of the system call bpf(2)."""
    front: str
    """C file in exporter/kernel/bpf with the program for kvm:kvm_exit."""
    classic: bool
    """Attach that program to the classic tracepoint (the context is the record), not to the raw one (its arguments)."""
    recognise: Callable[[Fields], Mapping[str, int] | None]
    """Returns the C macros that the front needs; None if the front cannot read a kvm:kvm_exit with these fields. Names
    alone are not enough: order, sizes and offsets must be the ones that the front reads."""
    exit_encoder: Callable[[Fields, int], EncodeExit]
    """Returns the encoder of exits for these fields. A context has at most the given number of bytes. If it is
    shorter, zeros follow. Raises ValueError if the fields need more bytes."""
    spaces: tuple[CodeSpace, ...]
    """Spaces of its exit codes."""
    kvm_remedy: str
    """Remedy if the kernel has no tracepoints of KVM."""
