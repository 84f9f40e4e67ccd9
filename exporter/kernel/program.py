"""The program as the daemon holds it: descriptors of maps, programs and attachments, and how they are come by.

bcc brings LLVM, some 100 MB of it, so a child process (loader.py) compiles, loads and attaches, sends the descriptors
over a socket, and exits. The programs stay attached while this process holds the descriptors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from exporter.kernel.isa import registry
from exporter.kernel.tracepoint import TracepointFormat
from exporter.model import buckets
from exporter.model.reason import Space

BPF = Path(__file__).parent / "bpf"

_FRONTS = ("front.bpf.h", *(isa.front for isa in registry.ISAS), "front_common.bpf.c")
_SOURCES = {
    "counting": (*_FRONTS, "maps.bpf.h", "buckets.bpf.h", "lookup.bpf.h", "count.bpf.c"),
    "recording": (*_FRONTS, "record.bpf.c"),
}
"""C files by kind of program, in the order in which they are joined."""

MAPS = {
    "counting": ("slots", "cells", "counters", "free_slots", "free_cells"),
    "recording": ("events", "lost"),
}
"""Maps that the loader sends, by kind of program."""

DEFINES: Mapping[str, str] = {
    **{f"SPACE_{space.name}": str(int(space)) for space in Space},
    "NR_BUCKETS": str(buckets.BUCKETS),
    "SECOND_BUCKET": str(-buckets.FIRST_BOUND),
    "MIN_BUCKET_NS": f"{buckets.bound_ns(0)}ULL",
    "MAX_BUCKET_NS": f"{buckets.bound_ns(buckets.BUCKETS - 2)}ULL",
}
"""C macros for numbers that Python and C share."""

TRACEPOINTS = ("kvm_exit", "kvm_entry", "kvm_userspace_exit", "sched_process_exit", "sched_process_exec")


def read_sources(kind: str) -> tuple[str, ...]:
    """Return the texts of the C files that a kind of program is made of, in order. Raises OSError."""
    return tuple((BPF / name).read_text() for name in _SOURCES[kind])


class LoadError(Exception):
    """The kernel, or bcc, refused. `what` is one line for the operator, `remedy` may be empty.

    `lacks` is what the loader found missing on this host, as far as it looked.
    """

    def __init__(self, what: str, remedy: str = "", lacks: Sequence[str] = ()) -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy
        self.lacks = tuple(lacks)

    def explained(self) -> str:
        """One line: what was refused and the remedy; where the kernel gave an errno alone, what the host lacks."""
        return str(self) if self.remedy else "; ".join([self.what, *self.lacks])


class LeafField(NamedTuple):
    """A member of a map's leaf: byte offset, bytes of one item, number of items (more than 1 in an array)."""

    offset: int
    size: int
    items: int


@dataclass(frozen=True)
class LeafLayout:
    """A map's leaf as bcc describes it: bytes of one leaf, number of leaves, members by name."""

    size: int
    entries: int
    fields: Mapping[str, LeafField]


@dataclass(frozen=True)
class LoadRequest:
    """What the child is to build."""

    front: str
    """`arm64` or `x86`: which kvm:kvm_exit the program is to understand. With `sysfs`, the child finds out."""
    defines: Mapping[str, int]
    slots: int
    cells: int
    kind: str = "counting"
    """Or `recording`: whether events are counted in the kernel, or sent to user space one by one."""
    sysfs: str = ""
    """Where the child reads this host's tracepoint formats, once KVM is there. "": front and defines are given."""
    attach: bool = True
    """False: load only (replay, preflight); every program is then a raw tracepoint that TestRun can call."""
    clock_in_context: bool = False
    bpf_stats: bool = False
    kernel_headers: str = "builtin"
    extra_source: str = ""
    """Appended to the program: the tests' own programs."""
    extra_programs: tuple[str, ...] = ()
    extra_classic: bool = False
    """The extra programs are for classic tracepoints, not raw ones."""


@dataclass
class Loaded:
    """Descriptors of the loaded program, owned by this process."""

    maps: Mapping[str, int]
    layouts: Mapping[str, LeafLayout]
    programs: Mapping[str, int]
    attachments: Mapping[str, int]
    """Open while the programs are attached; the BPF_ENABLE_STATS descriptor is one of them."""
    formats: Mapping[str, str] = field(default_factory=dict)
    """Texts of the tracepoint formats that the child read, by event; tracefs is root's."""

    def detach(self) -> None:
        """Have the tracepoints call the programs no more."""
        for fd in self.attachments.values():
            os.close(fd)
        self.attachments = {}

    def close(self) -> None:
        """Detach and free everything."""
        self.detach()
        for descriptors in (self.programs, self.maps):
            for fd in descriptors.values():
                os.close(fd)
        self.programs, self.maps = {}, {}


class Front(NamedTuple):
    """Which kvm:kvm_exit a program is to understand: members of a Request."""

    front: str
    """`arm64` or `x86`."""
    defines: Mapping[str, int]
    """Offsets of its fields."""


def front_of(kvm_exit: TracepointFormat) -> Front:
    """The front that fits the running kernel's (or a recording's) kvm:kvm_exit.

    Raises LoadError for a layout of neither architecture: nothing may be counted under a guessed reason.
    """
    found = registry.recognise(kvm_exit.fields)
    if found is None:
        known = " nor ".join(f"{isa.name}'s" for isa in registry.ISAS)
        raise LoadError(
            f"kvm:kvm_exit has a layout that is neither {known} (fields: {', '.join(kvm_exit.fields)})",
            "report it with the file events/kvm/kvm_exit/format",
        )
    isa, defines = found
    return Front(isa.name, defines)


def request_for(kvm_exit: TracepointFormat, **options: Any) -> LoadRequest:
    """Build the request for a program of the front that fits. Raises LoadError."""
    return LoadRequest(**front_of(kvm_exit)._asdict(), **options)


def layouts(described: Mapping[str, Any]) -> dict[str, LeafLayout]:
    """Layouts from their JSON: size, entries and members by name."""
    return {
        name: LeafLayout(size, entries, {member: LeafField(*where) for member, where in members.items()})
        for name, (size, entries, members) in described.items()
    }
