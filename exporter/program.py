"""The program as the daemon holds it: descriptors of maps, programs and attachments, and how they are come by.

bcc brings LLVM, some 100 MB of it, so a child process (loader.py) compiles, loads and attaches, sends the descriptors
over a socket, and exits. The programs stay attached while this process holds the descriptors.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from exporter.reasons import TracepointFormat

PROGRAMS = ("kvm_exit", "kvm_entry", "kvm_userspace_exit", "sched_process_exit", "sched_process_exec")

_COMPILE_SECONDS = 120  # an emulated machine needs ten
_MESSAGE_SIZE = 65536
_ROOT = str(Path(__file__).resolve().parent.parent)


class LoadError(Exception):
    """The kernel, or bcc, refused. `what` is one line for the operator, `remedy` may be empty."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class Field(NamedTuple):
    """A member of a map's leaf: byte offset, bytes of one item, number of items (more than 1 in an array)."""

    offset: int
    size: int
    items: int


@dataclass(frozen=True)
class Layout:
    """A map's leaf as bcc describes it: bytes of one leaf, number of leaves, members by name."""

    size: int
    entries: int
    fields: Mapping[str, Field]


@dataclass(frozen=True)
class Request:
    """What the child is to build."""

    front: str
    """`arm64` or `x86`: which kvm:kvm_exit the program is to understand."""
    defines: Mapping[str, int]
    slots: int
    cells: int
    kind: str = "counting"
    """Or `recording`: whether events are counted in the kernel, or sent to user space one by one."""
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
    layouts: Mapping[str, Layout]
    programs: Mapping[str, int]
    attachments: Mapping[str, int]
    """Open while the programs are attached; the BPF_ENABLE_STATS descriptor is one of them."""

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


def request_for(kvm_exit: TracepointFormat, **options: Any) -> Request:
    """Build the request that fits the running kernel's (or a recording's) kvm:kvm_exit.

    Raises LoadError for a layout of neither architecture: nothing may be counted under a guessed reason.
    """
    fields = kvm_exit.fields
    if {"ret", "esr_ec"} <= fields.keys():
        return Request(front="arm64", defines={}, **options)
    # Of an exit_reason of 8 bytes the program reads the lower half: codes have 32 bits on all known hardware.
    if {"exit_reason", "isa"} <= fields.keys() and fields["exit_reason"].size in (4, 8) and fields["isa"].size == 4:
        defines = {"EXIT_REASON_OFFSET": fields["exit_reason"].offset, "ISA_OFFSET": fields["isa"].offset}
        if "vcpu_id" in fields:  # since Linux 5.11
            defines["VCPU_ID_OFFSET"] = fields["vcpu_id"].offset
        return Request(front="x86", defines=defines, **options)
    raise LoadError(
        f"kvm:kvm_exit has a layout that is neither arm64's nor x86's (fields: {', '.join(fields)})",
        "report it with the file events/kvm/kvm_exit/format",
    )


def isolated(module: str) -> list[str]:
    """Command of a child that runs this package's `module`, whatever lies in the current directory or PYTHONPATH.

    The children are as privileged as their parent: `python3 -m` would import from wherever it was started.
    """
    start = f"import runpy, sys; sys.path.insert(0, {_ROOT!r}); runpy.run_module({module!r}, run_name='__main__')"
    return [sys.executable, "-I", "-c", start]


def load(request: Request) -> Loaded:
    """Compile and load in a child; returns the descriptors. Raises LoadError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, tempfile.TemporaryFile() as said:
        ours.settimeout(_COMPILE_SECONDS)
        child = subprocess.Popen(
            [*isolated("exporter.loader"), json.dumps(asdict(request))],
            stdin=theirs.fileno(),
            stdout=said,
            stderr=said,
            start_new_session=True,  # Ctrl-C is for the daemon, which then closes what it was sent
        )
        theirs.close()
        try:
            message, fds, _, _ = socket.recv_fds(ours, _MESSAGE_SIZE, 64)
            answer = json.loads(message) if message else {}
        except socket.timeout:
            child.kill()
            raise LoadError(f"the compiler did not finish within {_COMPILE_SECONDS} s") from None
        finally:
            child.wait()
        said.seek(0)
        output = said.read().decode(errors="replace")
    if "error" in answer or not answer:
        raise _explain(answer.get("error", f"the loader ended with status {child.returncode}"), output, answer)
    names = iter(fds)
    return Loaded(
        maps={name: next(names) for name in answer["maps"]},
        programs={name: next(names) for name in answer["programs"]},
        attachments={name: next(names) for name in answer["attachments"]},
        layouts={
            name: Layout(size, entries, {field: Field(*where) for field, where in fields.items()})
            for name, (size, entries, fields) in answer["layouts"].items()
        },
    )


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
            return LoadError(what.format(*match.groups()), remedy)
    code = answer.get("errno", 0)
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    reason = os.strerror(code) if code else last
    return LoadError(f"{error}: {reason}" if reason else error, answer.get("remedy", ""))
