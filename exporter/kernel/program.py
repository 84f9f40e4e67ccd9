"""The BPF program: its parts, the request for it, and the descriptors of its maps, programs and attachments.

bcc needs LLVM, which takes 100 MB of memory. So a child process (loader.py) compiles, loads and attaches the program,
sends the descriptors over a socket, and exits. The program stays attached while this process holds the descriptors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from exporter.kernel.exit_check import ExitCheck
from exporter.kernel.isa import registry
from exporter.kernel.isa.entry import Isa
from exporter.kernel.tracepoint import TracepointFormat
from exporter.model import buckets
from exporter.model.reason import Space

BPF = Path(__file__).parent / "bpf"
"""Directory of the C files."""


class Tracepoint(NamedTuple):
    """A tracepoint that is used. Its program has the name of its event."""

    system: str
    recorded: bool = True
    """False if only the counting program has this tracepoint, and a recording does not."""
    front: str = ""
    """Name of the only front whose program has this tracepoint; "": every front has it."""


TRACEPOINTS: Mapping[str, Tracepoint] = {
    "kvm_exit": Tracepoint("kvm"),
    "kvm_trap_enter": Tracepoint("kvm", front="arm64_openeuler"),
    "kvm_entry": Tracepoint("kvm"),
    "kvm_userspace_exit": Tracepoint("kvm"),
    "sched_process_exit": Tracepoint("sched"),
    "sched_process_exec": Tracepoint("sched"),
}
"""The tracepoints by event."""

_FRONTS = ("front.bpf.h", *(isa.front for isa in registry.ISAS), "front_common.bpf.c")
_TIME_SPLIT = ("time_split.bpf.h", "time_split_check.bpf.c")
_SOURCES = {
    "counting": (*_FRONTS, "maps.bpf.h", "buckets.bpf.h", *_TIME_SPLIT, "share.bpf.h", "lookup.bpf.h", "count.bpf.c"),
    "recording": (*_FRONTS, "record.bpf.c"),
}
"""C files by kind of program, in the order in which they are joined."""

OFFSET_SOURCES = tuple(Path(__file__).parent / name for name in ("btf.py", "isa/x86_front.py", "time_split.py"))
"""Python files that choose the macros of a program. With another version of them, a program may read other memory."""

MAPS = {
    "counting": ("slots", "cells", "counters", "usage", "shares", "process_drops", "free_slots", "free_cells"),
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


def events(kind: str, front: str) -> tuple[str, ...]:
    """Return the events that a kind of program with this front is attached to."""
    return tuple(
        event
        for event, tracepoint in TRACEPOINTS.items()
        if (tracepoint.recorded or kind == "counting") and tracepoint.front in {"", front}
    )


def read_sources(kind: str) -> tuple[str, ...]:
    """Return the texts of the C files that a kind of program is made of, in order. Raises OSError."""
    return tuple((BPF / name).read_text() for name in _SOURCES[kind])


class LoadError(Exception):
    """The program cannot be loaded. `what` is one line for the operator, `remedy` may be empty.

    `lacks` names the things that this host lacks, as far as the loader checked.
    """

    def __init__(self, what: str, remedy: str = "", lacks: Sequence[str] = ()) -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy
        self.lacks = tuple(lacks)

    def explained(self) -> str:
        """Return one line: the error, its remedy, and the things that the host lacks.

        Things with the same remedy are left out: they have the same cause.
        """
        if not self.remedy:
            return "; ".join([self.what, *self.lacks])
        others = [lack for lack in self.lacks if not lack.endswith(f"({self.remedy})")]
        return f"{self}; this host also lacks: {'; '.join(others)}" if others else str(self)


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
    """What the loader builds."""

    front: str
    """Name of the ISA (kernel/isa) whose kvm:kvm_exit the program reads. With `sysfs`, the loader finds it out. "" in a
    late replay request: the loader is started first, and waits until Launcher.choose() names the front."""
    defines: Mapping[str, int]
    """C macros. With `sysfs`, and in a late replay request, the loader adds those of the front."""
    slots: int
    """vCPU threads that have room."""
    cells: int
    """Reasons of all vCPUs together that have room."""
    kind: str = "counting"
    """`counting`: count events in the kernel. `recording`: send each event to user space."""
    sysfs: str = ""
    """Root of sysfs: the loader waits for KVM, and reads tracepoint formats and BTF there. "": front and defines are
    set, and kvm_exit is a raw tracepoint."""
    attach: bool = True
    """False: load only (replay, preflight)."""
    clock_in_context: bool = False
    """The time of an event is in its context (replay); otherwise the program reads the clock."""
    bpf_stats: bool = False
    """Measure the run time of all BPF programs of this host."""
    kernel_headers: str = "builtin"
    """The configuration key: `builtin`, `system` or a directory."""
    time_split: bool = False
    """Split the exits' time. With `sysfs`, the loader finds the macros; otherwise they are among `defines`."""
    extra_source: str = ""
    """C text behind the program: programs of the tests."""
    extra_programs: tuple[str, ...] = ()
    """Names of the programs in it."""
    extra_classic: bool = False
    """These programs are for classic tracepoints, not for raw ones."""


@dataclass
class Loaded:
    """Descriptors of the loaded program, owned by this process."""

    maps: Mapping[str, int]
    layouts: Mapping[str, LeafLayout]
    programs: Mapping[str, int]
    attachments: Mapping[str, int]
    """A program is attached while its descriptor here is open. "stats" is the descriptor of BPF_ENABLE_STATS."""
    formats: Mapping[str, str] = field(default_factory=dict)
    """Texts of the tracepoint formats that the loader read, by event. Only root can read tracefs."""
    vcpu_ids: bool = False
    """True if the program reads the kernel's vcpu_id."""
    classic_reason: str = ""
    """Why kvm_exit is attached to its classic tracepoint; "" if it is attached to the raw one."""
    unsplit_reason: str = ""
    """Why the exits' time is not split; "" if it is."""
    check: ExitCheck = field(default_factory=lambda: ExitCheck({}))
    """The check of the raw kvm_exit, if it is not finished."""

    def detach(self) -> None:
        """Detach the programs; the maps keep their content."""
        self.check.close()
        for fd in self.attachments.values():
            os.close(fd)
        self.attachments = {}

    def close(self) -> None:
        """Detach the programs, and close all descriptors."""
        self.detach()
        for descriptors in (self.programs, self.maps):
            for fd in descriptors.values():
                os.close(fd)
        self.programs, self.maps = {}, {}


def isa_of(kvm_exit: TracepointFormat) -> Isa:
    """Return the ISA whose front fits the kvm:kvm_exit of this host or of a recording.

    Raises LoadError for fields that no front reads: nothing may be counted under a guessed reason.
    """
    isa = registry.recognise(kvm_exit.fields)
    if isa is None:
        known = " nor ".join(f"{isa.name}'s" for isa in registry.ISAS)
        fields = ", ".join(f"{field.name}:{field.offset}:{field.size}" for field in kvm_exit.fields.values())
        raise LoadError(
            f"kvm:kvm_exit has a layout that is neither {known} (name:offset:size of its fields: {fields})",
            "report it with the file events/kvm/kvm_exit/format",
        )
    return isa


def replay_request(kvm_exit: TracepointFormat, **options: Any) -> LoadRequest:
    """Return the request for a program that counts a recording with this kvm_exit, and is not attached.

    `options` are the other members. Raises LoadError.
    """
    isa = isa_of(kvm_exit)
    return LoadRequest(isa.name, isa.replay_defines, attach=False, clock_in_context=True, **options)


def late_replay_request(**options: Any) -> LoadRequest:
    """Return the request for a program that counts a recording, and whose front is chosen later."""
    return LoadRequest("", {}, attach=False, clock_in_context=True, **options)


def layouts(described: Mapping[str, Any]) -> dict[str, LeafLayout]:
    """Return layouts from their JSON form: size, entries and members by name."""
    return {
        name: LeafLayout(size, entries, {member: LeafField(*where) for member, where in members.items()})
        for name, (size, entries, members) in described.items()
    }
