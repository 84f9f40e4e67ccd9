"""Compile, load and attach the BPF program in a short-lived child; keep only its descriptors.

bcc brings LLVM, some 100 MB of it. So a child process (this module run with -m) imports bcc, sends the descriptors
of maps, programs and attachments over a socket, and exits; the programs stay attached while the daemon holds them.
This is the only module that imports bcc.
"""

from __future__ import annotations

import ctypes
import errno
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

from exporter.bpf import syscall
from exporter.reasons import Space, TracepointFormat

SOURCE = Path(__file__).parent / "bpf" / "kvm_exit.bpf.c"
HEADERS = Path(__file__).parent / "bpf" / "headers"

MAPS = ("slots", "cells", "counters", "tid_slot", "free_slots", "free_cells")
PROGRAMS = ("kvm_exit", "kvm_entry", "kvm_userspace_exit", "sched_process_exit")

_COMPILE_SECONDS = 120  # an emulated machine needs ten
_MESSAGE_SIZE = 65536


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
    attach: bool = True
    """False: load only (replay, preflight); every program is then a raw tracepoint that TestRun can call."""
    clock_in_context: bool = False
    bpf_stats: bool = False
    kernel_headers: str = "builtin"
    extra_source: str = ""
    """Appended to the program: the tests' own programs."""
    extra_programs: tuple[str, ...] = ()


@dataclass
class Loaded:
    """Descriptors of the loaded program, owned by this process."""

    maps: Mapping[str, int]
    layouts: Mapping[str, Layout]
    programs: Mapping[str, int]
    attachments: Mapping[str, int]
    """Open while the programs are attached; the BPF_ENABLE_STATS descriptor is one of them."""

    def close(self) -> None:
        """Detach and free everything."""
        for descriptors in (self.attachments, self.programs, self.maps):
            for fd in descriptors.values():
                os.close(fd)
        self.attachments, self.programs, self.maps = {}, {}, {}


def request_for(kvm_exit: TracepointFormat, **options: Any) -> Request:
    """Build the request that fits the running kernel's (or a recording's) kvm:kvm_exit.

    Raises LoadError for a layout of neither architecture: nothing may be counted under a guessed reason.
    """
    fields = kvm_exit.fields
    if {"ret", "esr_ec"} <= fields.keys():
        return Request(front="arm64", defines={}, **options)
    if {"exit_reason", "isa"} <= fields.keys() and fields["exit_reason"].size == fields["isa"].size == 4:
        defines = {"EXIT_REASON_OFFSET": fields["exit_reason"].offset, "ISA_OFFSET": fields["isa"].offset}
        if "vcpu_id" in fields:  # since Linux 5.11
            defines["VCPU_ID_OFFSET"] = fields["vcpu_id"].offset
        return Request(front="x86", defines=defines, **options)
    raise LoadError(
        f"kvm:kvm_exit has a layout that is neither arm64's nor x86's (fields: {', '.join(fields)})",
        "report it with the file events/kvm/kvm_exit/format",
    )


def load(request: Request) -> Loaded:
    """Compile and load in a child; returns the descriptors. Raises LoadError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, tempfile.TemporaryFile() as said:
        ours.settimeout(_COMPILE_SECONDS)
        child = subprocess.Popen(
            [sys.executable, "-m", "exporter.loader", json.dumps(asdict(request))],
            stdin=theirs.fileno(),
            stdout=said,
            stderr=said,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
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


# The rest runs in the child.


class _ChildError(Exception):
    def __init__(self, error: str, code: int = 0, remedy: str = "") -> None:
        super().__init__(error)
        self.answer = {"error": error, "errno": code, "remedy": remedy}


def _import_bcc() -> Any:
    try:
        import bcc  # noqa: PLC0415 - the point of this module is that the daemon never does this

        return bcc
    except ImportError:
        pass
    try:
        import bpfcc  # noqa: PLC0415 - the name openEuler and Kylin give it

        return bpfcc
    except ImportError as error:
        raise _ChildError(
            f"Python module bcc is not installed for {sys.executable} ({error})",
            remedy="install python3-bpfcc (Debian, Ubuntu), python3-bcc (Fedora, RHEL) or python3-bpfcc (openEuler)",
        ) from error


def _compile(bcc: Any, request: Mapping[str, Any]) -> Any:
    spaces = {f"SPACE_{space.name}": int(space) for space in Space}
    defines = {"NR_SLOTS": request["slots"], "NR_CELLS": request["cells"], **spaces, **request["defines"]}
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    flags.append(f"-DFRONT_{request['front'].upper()}")
    if request["clock_in_context"]:
        flags.append("-DCLOCK_IN_CONTEXT")
    source = SOURCE.read_text() + request["extra_source"]
    if request["kernel_headers"] != "system":
        builtin = request["kernel_headers"] == "builtin"
        os.environ["BCC_KERNEL_SOURCE"] = str(HEADERS if builtin else request["kernel_headers"])
    try:
        return bcc.BPF(text=source, cflags=flags)
    except Exception as error:
        raise _ChildError("cannot compile the BPF program") from error


def _load(bpf: Any, name: str, kind: int) -> int:
    try:
        return int(bpf.load_func(name, kind).fd)
    except Exception as error:
        # bcc's message ends in the errno's text: "Failed to load BPF program b'x': Permission denied"
        text = str(error).rsplit(": ", 1)[-1]
        code = next((number for number in errno.errorcode if os.strerror(number) == text), errno.EINVAL)
        raise _ChildError(f"the kernel refused the BPF program {name}", code) from error


def _attach(bpf: Any, name: str, kind: int, raw: int) -> int:
    category = "sched" if name == "sched_process_exit" else "kvm"
    try:
        if kind == raw:
            bpf.attach_raw_tracepoint(tp=name, fn_name=name)
            return int(bpf.raw_tracepoint_fds[name.encode()])
        tracepoint = f"{category}:{name}"
        bpf.attach_tracepoint(tp=tracepoint, fn_name=name)
        return int(bpf.tracepoint_fds[tracepoint.encode()])
    except Exception as error:
        raise _ChildError(f"cannot attach to {category}:{name}") from error


def _layout(table: Any) -> tuple[int, int, dict[str, Field]]:
    """Resolve bcc's description of the leaf: ctypes knows the offsets."""
    leaf = table.Leaf
    fields = {}
    for name, kind, *_ in leaf._fields_:
        member = getattr(leaf, name)
        items = getattr(kind, "_length_", 1)
        fields[name] = Field(member.offset, member.size // items, items)
    # The kernel rounds the stride of an array map up to 8 bytes.
    return (ctypes.sizeof(leaf) + 7) // 8 * 8, table.max_entries, fields


def _build(request: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
    bcc = _import_bcc()
    bpf = _compile(bcc, request)
    raw = bcc.BPF.RAW_TRACEPOINT
    classic = request["attach"] and request["front"] == "x86"
    kinds = {name: bcc.BPF.TRACEPOINT if classic and name == "kvm_exit" else raw for name in PROGRAMS}
    kinds.update((name, raw) for name in request["extra_programs"])
    programs = {name: _load(bpf, name, kind) for name, kind in kinds.items()}
    maps = {name: bpf[name].map_fd for name in MAPS}
    for queue, entries in (("free_slots", request["slots"]), ("free_cells", request["cells"])):
        for number in range(1, entries + 1):
            syscall.queue_push(maps[queue], number)
    attachments = {}
    if request["bpf_stats"]:
        try:
            attachments["stats"] = syscall.enable_stats()
        except OSError as error:
            raise _ChildError(
                f"cannot enable BPF statistics: {error.strerror}",
                remedy="bpf_stats needs Linux 5.8 and CAP_SYS_ADMIN; or set the sysctl kernel.bpf_stats_enabled=1",
            ) from error
    if request["attach"]:
        # The way out first: an exit that is seen before the first entry is harmless, a missed death is not.
        for name in reversed(PROGRAMS):
            attachments[name] = _attach(bpf, name, kinds[name], raw)
    answer = {
        "maps": list(maps),
        "programs": list(programs),
        "attachments": list(attachments),
        "layouts": {name: _layout(bpf[name]) for name in ("slots", "cells", "counters")},
    }
    return answer, [*maps.values(), *programs.values(), *attachments.values()]


def _child() -> None:
    with socket.socket(fileno=0) as parent:
        try:
            answer, fds = _build(json.loads(sys.argv[1]))
        except _ChildError as error:
            answer, fds = error.answer, []
        socket.send_fds(parent, [json.dumps(answer).encode()], fds)
    # bcc's cleanup at exit would only close what the kernel closes anyway.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    _child()
