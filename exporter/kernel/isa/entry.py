"""The form of an entry in the registry of instruction sets (ISAs): plain data and small functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from exporter.kernel.tracepoint import RecordField
from exporter.model.reason import Space

Fields = Mapping[str, RecordField]
"""Fields of the record of kvm:kvm_exit, by name."""

EncodeExit = Callable[[int, int, int], bytes]
"""A function from (space, code, vcpu_id) to the context that the front reads.

Raises ValueError for an exit of another ISA.
"""


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
class CodeSpace:
    """The codes of one space: names, classes, and the rules by which a name is made."""

    space: Space
    by_class: Mapping[str, Mapping[int, str]]
    """Class -> code -> built-in name. A code that is not listed has the class "other"."""
    table: str = ""
    """Expression of the kernel's table of names in the print fmt; "" if the kernel has no table."""
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

    def names(self) -> dict[int, str]:
        """Return code -> built-in name."""
        return {code: name for codes in self.by_class.values() for code, name in codes.items()}

    def classes(self) -> dict[int, str]:
        """Return code -> class."""
        return {code: klass for klass, codes in self.by_class.items() for code in codes}


@dataclass(frozen=True)
class Isa:
    """All facts about an instruction set that the exporter uses."""

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
    """Returns the C macros for this ISA's C file; None if kvm:kvm_exit has the fields of another ISA."""
    exit_encoder: Callable[[Fields, int], EncodeExit]
    """Returns the encoder of exits for these fields. A context has at most the given number of bytes.

    If it is shorter, zeros follow. Raises ValueError if the fields need more bytes.
    """
    spaces: tuple[CodeSpace, ...]
    """Spaces of its exit codes."""
    kvm_remedy: str
    """Remedy for a kernel without the tracepoints of KVM."""
