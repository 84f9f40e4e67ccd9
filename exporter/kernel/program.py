"""The program as the daemon holds it: descriptors of maps, programs and attachments, and how they are come by.

bcc brings LLVM, some 100 MB of it, so a child process (loader.py) compiles, loads and attaches, sends the descriptors
over a socket, and exits. The programs stay attached while this process holds the descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from exporter.kernel.tracepoint import TracepointFormat

BPF = Path(__file__).parent / "bpf"

# By kind of program: the files it is made of, and the maps that are handed over.
SOURCES = {"counting": ("fronts.bpf.h", "kvm_exit.bpf.c"), "recording": ("fronts.bpf.h", "record.bpf.c")}
MAPS = {
    "counting": ("slots", "cells", "counters", "free_slots", "free_cells"),
    "recording": ("events", "lost"),
}
PROGRAMS = ("kvm_exit", "kvm_entry", "kvm_userspace_exit", "sched_process_exit", "sched_process_exec")

_COMPILE_SECONDS = 120  # an emulated machine needs ten
_END_SECONDS = 5
_MESSAGE_SIZE = 1 << 18  # two tracepoint formats with all their names are some 15 KB
_MORE_FILES = "raise the limit of open files (LimitNOFILE in the unit, ulimit -n)"
_ROOT = str(Path(__file__).resolve().parents[2])


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
    fields = kvm_exit.fields
    if {"ret", "esr_ec"} <= fields.keys():
        return Front("arm64", {})
    # Of an exit_reason of 8 bytes the program reads the lower half: codes have 32 bits on all known hardware.
    if {"exit_reason", "isa"} <= fields.keys() and fields["exit_reason"].size in (4, 8) and fields["isa"].size == 4:
        defines = {"EXIT_REASON_OFFSET": fields["exit_reason"].offset, "ISA_OFFSET": fields["isa"].offset}
        if "vcpu_id" in fields:  # since Linux 5.11
            defines["VCPU_ID_OFFSET"] = fields["vcpu_id"].offset
        return Front("x86", defines)
    raise LoadError(
        f"kvm:kvm_exit has a layout that is neither arm64's nor x86's (fields: {', '.join(fields)})",
        "report it with the file events/kvm/kvm_exit/format",
    )


def request_for(kvm_exit: TracepointFormat, **options: Any) -> LoadRequest:
    """Build the request for a program of the front that fits. Raises LoadError."""
    return LoadRequest(**front_of(kvm_exit)._asdict(), **options)


def isolated(module: str) -> list[str]:
    """Command of a child that runs this package's `module`, whatever lies in the current directory or PYTHONPATH.

    The children are as privileged as their parent: `python3 -m` would import from wherever it was started.
    """
    start = f"import runpy, sys; sys.path.insert(0, {_ROOT!r}); runpy.run_module({module!r}, run_name='__main__')"
    return [sys.executable, "-I", "-c", start]


def layouts(described: Mapping[str, Any]) -> dict[str, LeafLayout]:
    """Layouts from their JSON: size, entries and members by name."""
    return {
        name: LeafLayout(size, entries, {member: LeafField(*where) for member, where in members.items()})
        for name, (size, entries, members) in described.items()
    }


class Launcher:
    """The child at work: it waits for KVM if it must, builds, answers, and ends. It ends with this process, too."""

    def __init__(self, request: LoadRequest) -> None:
        """Start it. Raises LoadError."""
        self.waiting = False
        """For KVM, whose tracepoints are not there yet."""
        self._deadline = time.monotonic() + _COMPILE_SECONDS
        with contextlib.ExitStack() as opened:
            try:
                self._said = opened.enter_context(os.fdopen(os.memfd_create("loader"), "w+b"))
                self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                opened.enter_context(self._socket)
                with theirs:
                    self._child = subprocess.Popen(
                        [*isolated("exporter.kernel.loader"), json.dumps(asdict(request))],
                        stdin=theirs.fileno(),
                        stdout=self._said,
                        stderr=self._said,
                        start_new_session=True,  # Ctrl-C is for the daemon, which then closes what it was sent
                    )
            except OSError as error:  # no descriptor, process or memory to be had
                remedy = _MORE_FILES if error.errno in (errno.EMFILE, errno.ENFILE) else ""
                raise LoadError(f"cannot run the loader: {error.strerror or error}", remedy) from error
            opened.pop_all()

    def receive(self, timeout: float) -> Loaded | None:
        """Return the loaded program, or None if it is not there after so many seconds. Raises LoadError."""
        if not select.select([self._socket], [], [], timeout)[0]:
            if not self.waiting and time.monotonic() > self._deadline:
                raise LoadError(f"the compiler did not finish within {_COMPILE_SECONDS} s")
            return None
        message, fds, flags, _ = socket.recv_fds(self._socket, _MESSAGE_SIZE, 64)
        if flags & socket.MSG_CTRUNC:  # RLIMIT_NOFILE: the kernel hands over as many as there is room for
            for fd in fds:
                os.close(fd)
            raise LoadError(f"the loader's descriptors: {os.strerror(errno.EMFILE)}", _MORE_FILES)
        answer = json.loads(message) if message else {}
        if "waiting" in answer:
            self.waiting = answer["waiting"]
            self._deadline = time.monotonic() + _COMPILE_SECONDS
            return None
        self._child.wait()
        if "error" in answer or not answer:
            self._said.seek(0)
            output = self._said.read().decode(errors="replace")
            error = answer.get("error", f"the loader ended with status {self._child.returncode}")
            raise _explain(error, output, answer)
        names = iter(fds)
        return Loaded(
            maps={name: next(names) for name in answer["maps"]},
            programs={name: next(names) for name in answer["programs"]},
            attachments={name: next(names) for name in answer["attachments"]},
            layouts=layouts(answer["layouts"]),
            formats=answer["formats"],
        )

    def close(self) -> None:
        """End the child if it has not ended. It may have more rights than this process, which then cannot kill it."""
        self._socket.close()  # at which it ends by itself
        try:
            self._child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(PermissionError):
                self._child.kill()
                self._child.wait()
        self._said.close()


def load(request: LoadRequest) -> Loaded:
    """Compile and load in a child, and wait for it; returns the descriptors. Raises LoadError."""
    with contextlib.closing(Launcher(request)) as loader:
        while True:
            loaded = loader.receive(_COMPILE_SECONDS)
            if loaded:
                return loaded


_BUILTIN = "set kernel_headers: builtin in the configuration"

# What bcc and clang print, what it means to an operator, and the remedy. {} is the matched text.
_SAID = (
    (
        re.compile(r"^could not open bpf map: (\S+), error: (.*)$", re.M),
        "the kernel refused the BPF map {}: {}",
        "",
    ),
    (re.compile(r"^chdir\((.*)\): (.*)$", re.M), "no kernel headers in {}: {}", _BUILTIN),
    (
        re.compile(r"^.*:\d+:\d+: (?:fatal )?error: (.*)$", re.M),
        "cannot compile the BPF program: {}",
        _BUILTIN,
    ),
    # The verifier's verdict is the line before its statistics.
    (re.compile(r"^(.*)\nprocessed \d+ insns", re.M), "the verifier refused the BPF program: {}", ""),
)


def _explain(error: str, output: str, answer: Mapping[str, Any]) -> LoadError:
    """Turn what the child, clang and the verifier said into one line."""
    for pattern, what, remedy in _SAID:
        match = pattern.search(output)
        if match:
            return LoadError(what.format(*match.groups()), remedy, answer.get("lacks", ()))
    code = answer.get("errno", 0)
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    reason = os.strerror(code) if code else last
    return LoadError(f"{error}: {reason}" if reason else error, answer.get("remedy", ""), answer.get("lacks", ()))
