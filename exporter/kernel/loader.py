"""The loader: compiles, loads and attaches the BPF program, in a child process that keeps its privileges.

launcher.Launcher starts it. The request is its one argument, as JSON. Its standard input is the socket for the answer
and the descriptors. If KVM's tracepoints do not exist yet, the loader reports that and waits for them. It exits after
the answer, or when the other end of the socket is closed. This is the only module that imports bcc.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.kernel import exit_check, host, syscall, time_split
from exporter.kernel.btf import KernelBtf
from exporter.kernel.exit_check import ExitCheck
from exporter.kernel.isa import registry
from exporter.kernel.isa.entry import HostFront
from exporter.kernel.preflight.kernel import kernel_version
from exporter.kernel.program import (
    BPF,
    DEFINES,
    MAPS,
    TRACEPOINTS,
    LeafField,
    LoadError,
    events,
    isa_of,
    read_sources,
)
from exporter.kernel.tracepoint import FormatError, event_id

HEADERS = BPF / "headers"

_KVM_POLL_SECONDS = 2.0
_MODULE_SECONDS = 1.0
_DEVICE_POLL_SECONDS = 0.05
_DEVICE_SECONDS = 1.0
_CLASSIC_PROGRAM = "kvm_exit_classic"

ARRAYS = {"counting": ("slots", "cells", "counters", "usage"), "recording": ("lost",)}
"""Array maps by kind of program: user space reads their leaves."""
STACKS = {"counting": {"free_slots": "slots", "free_cells": "cells"}, "recording": {}}
"""Stack maps by kind of program, each with the member of the request that is its size: the loader fills them."""


class _BuildError(Exception):
    """The program cannot be built. The launcher makes a LoadError of the answer."""

    def __init__(self, error: str, code: int = 0, remedy: str = "") -> None:
        super().__init__(error)
        self.answer = {"error": error, "errno": code, "remedy": remedy}


def _import_bcc() -> Any:
    """Return the module bcc. Raises _BuildError."""
    try:
        import bcc  # noqa: PLC0415 - only the loader may import it, and only when it is needed

        return bcc
    except ImportError:
        pass
    try:
        import bpfcc  # noqa: PLC0415 - its name on openEuler and Kylin

        return bpfcc
    except ImportError as error:
        raise _BuildError(
            f"Python module bcc is not installed for {sys.executable} ({error})",
            remedy="install python3-bpfcc (Debian, Ubuntu), python3-bcc (Fedora, RHEL) or python3-bpfcc (openEuler)",
        ) from error


def _raise_memlock() -> None:
    """Let this process lock any amount of memory, if it may.

    Before Linux 5.11, maps and programs count as locked memory. bcc raises the limit only after a map was refused. If
    all maps are small, none is refused. Then the verifier cannot enlarge a program (bpf_prog_realloc(), ENOMEM).
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _compile(bcc: Any, request: Mapping[str, Any]) -> Any:
    """Compile the request's program; returns bcc's object. Raises _BuildError."""
    defines = {**DEFINES, "NR_SLOTS": request["slots"], "NR_CELLS": request["cells"], **request["defines"]}
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    flags.append(f"-DFRONT_{request['front'].upper()}")
    if request["clock_in_context"]:
        flags.append("-DCLOCK_IN_CONTEXT")
    source = "".join([*read_sources(request["kind"]), request["extra_source"]])
    if request["kernel_headers"] != "system":
        builtin = request["kernel_headers"] == "builtin"
        os.environ["BCC_KERNEL_SOURCE"] = str(HEADERS if builtin else request["kernel_headers"])
    try:
        return bcc.BPF(text=source, cflags=flags)
    except Exception as error:
        raise _BuildError("cannot compile the BPF program") from error


def _load(bpf: Any, name: str, kind: int) -> int:
    """Load the function `name` as a program of bcc's kind; returns its descriptor. Raises _BuildError."""
    try:
        return int(bpf.load_func(name, kind).fd)
    except Exception as error:
        # bcc's message ends in the errno's text: "Failed to load BPF program b'x': Permission denied"
        text = str(error).rsplit(": ", 1)[-1]
        code = next((number for number in errno.errorcode if os.strerror(number) == text), errno.EINVAL)
        raise _BuildError(f"the kernel refused the BPF program {name}", code) from error


def _attach_raw(name: str, program: int) -> int:
    """Attach a program to the raw tracepoint of this name; returns the descriptor. Raises _BuildError."""
    try:
        return syscall.attach_raw(program, name)
    except OSError as error:
        raise _not_attached(name, error) from error


def _attach_classic(name: str, program: int, text: str) -> int:
    """Attach a program to the classic tracepoint with this format; returns the descriptor. Raises _BuildError."""
    try:
        return syscall.attach_classic(program, event_id(text))
    except (OSError, FormatError) as error:
        raise _not_attached(name, error) from error


def _not_attached(name: str, error: OSError | FormatError) -> _BuildError:
    cause = error.strerror if isinstance(error, OSError) else error
    return _BuildError(f"cannot attach to {TRACEPOINTS[name].system}:{name}: {cause}")


def _enable_stats() -> int:
    """Have the kernel measure the run time of BPF programs; returns the descriptor. Raises _BuildError."""
    try:
        return syscall.enable_stats()
    except OSError as error:
        raise _BuildError(
            f"cannot enable BPF statistics: {error.strerror}",
            remedy="bpf_stats needs Linux 5.8 and CAP_SYS_ADMIN; or set the sysctl kernel.bpf_stats_enabled=1",
        ) from error


def _layout(table: Any) -> tuple[int, int, dict[str, LeafField]]:
    """Return size, number and members of a map's leaves. bcc describes a leaf as a ctypes structure."""
    leaf = table.Leaf
    fields = {}
    for name, kind, *_ in leaf._fields_:
        member = getattr(leaf, name)
        items = getattr(kind, "_length_", 1)
        fields[name] = LeafField(member.offset, member.size // items, items)
    # The kernel rounds the stride of an array map up to 8 bytes.
    return (ctypes.sizeof(leaf) + 7) // 8 * 8, table.max_entries, fields


def _wait_for_kvm(sysfs: Path, parent: socket.socket) -> dict[str, str]:
    """Return the texts of the tracepoint formats, as soon as KVM has tracepoints.

    Raises LoadError, also on a host that will never have kvm_exit.
    """
    reported = False
    while (texts := host.read_texts(sysfs)) is None:
        never = host.never_comes(sysfs)
        if never:
            time.sleep(_MODULE_SECONDS)  # a module that is just being loaded makes its tracepoints one by one
            if host.read_texts(sysfs) is None:
                raise never
            continue
        if not reported:
            parent.send(json.dumps({"waiting": True}).encode())
            reported = True
        time.sleep(_KVM_POLL_SECONDS)
    parent.send(json.dumps({"waiting": False}).encode())
    # modprobe loads kvm and then kvm_intel or kvm_amd, which makes the device, and whose BTF is needed.
    deadline = time.monotonic() + _DEVICE_SECONDS
    while host.lacks_device(sysfs) and time.monotonic() < deadline:
        time.sleep(_DEVICE_POLL_SECONDS)
    return texts


def _host_front(request: dict[str, Any], texts: Mapping[str, str], btf: KernelBtf) -> HostFront:
    """Find out how kvm_exit is read on this host, and complete the request with it. Raises LoadError."""
    kvm_exit = host.parsed(texts).kvm_exit
    isa = isa_of(kvm_exit)
    found = isa.host_front(kvm_exit.fields, btf, kernel_version(os.uname().release))
    request.update(front=isa.name, defines={**request["defines"], **found.defines})
    return found


def _check_raw(bcc: Any, bpf: Any, front: HostFront, texts: Mapping[str, str]) -> tuple[ExitCheck, HostFront]:
    """Check the raw kvm_exit, if this host lets it.

    Returns the check if it is not finished, and the front that can be trusted. Raises OSError.
    """
    if front.classic_reason or not {"ISA_ARG", "ISA_OFFSET"} <= front.defines.keys():
        return ExitCheck({}), front
    try:
        raw = _load(bpf, exit_check.RAW, bcc.BPF.RAW_TRACEPOINT)
        record = _load(bpf, exit_check.RECORD, bcc.BPF.TRACEPOINT)
        check = exit_check.begin(os.dup(bpf[exit_check.MAP].map_fd), raw, record, event_id(texts["kvm_exit"]))
    except (_BuildError, OSError, FormatError):  # nothing was read twice: the same as on a host without an exit
        return ExitCheck({}), front
    difference = exit_check.finish(check)
    return check, _classic(front, difference) if difference else front


def _classic(front: HostFront, reason: str) -> HostFront:
    """Return the front that reads the classic tracepoint."""
    return HostFront(front.defines, "VCPU_ID_OFFSET" in front.defines, reason)


def _or_classic(front: HostFront, error: _BuildError) -> HostFront:
    """Return the front that reads the classic tracepoint, after the kernel refused the raw one. Raises _BuildError."""
    if "ISA_OFFSET" not in front.defines:
        raise error
    return _classic(front, str(error))


def _load_kvm_exit(bcc: Any, bpf: Any, front: HostFront) -> tuple[int, HostFront]:
    """Load the program for kvm_exit; returns its descriptor, and the front that it has. Raises _BuildError."""
    if not front.classic_reason:
        try:
            return _load(bpf, "kvm_exit", bcc.BPF.RAW_TRACEPOINT), front
        except _BuildError as error:  # lockdown may forbid to read KVM's memory
            front = _or_classic(front, error)
    return _load(bpf, _CLASSIC_PROGRAM, bcc.BPF.TRACEPOINT), front


def _attach_kvm_exit(
    bcc: Any, bpf: Any, front: HostFront, texts: Mapping[str, str], programs: dict[str, int]
) -> tuple[int, HostFront]:
    """Attach the program for kvm_exit, or replace it in `programs` by the one that the kernel attaches.

    Returns the descriptor of the attachment, and the front that it has. Raises _BuildError.
    """
    if not front.classic_reason:
        try:
            return _attach_raw("kvm_exit", programs["kvm_exit"]), front
        except _BuildError as error:  # the tracepoint may have fewer arguments than the program reads
            programs["kvm_exit"], front = _load_kvm_exit(bcc, bpf, _or_classic(front, error))
    return _attach_classic("kvm_exit", programs["kvm_exit"], texts["kvm_exit"]), front


def _compile_split(bcc: Any, request: Mapping[str, Any], btf: KernelBtf) -> tuple[Any, str]:
    """Compile the request's program, with the time split if it is asked for and this host lets it.

    Returns bcc's object, and why the time is not split. Raises _BuildError.
    """
    defines = request["defines"]
    reason = "it is not asked for"
    if request["time_split"]:
        try:
            split = time_split.offsets(btf) if request["sysfs"] else {}
            bpf = _compile(bcc, {**request, "defines": {**defines, **split}})
            program = _load(bpf, time_split.CHECK_PROGRAM, bcc.BPF.RAW_TRACEPOINT)
            time_split.check(program, {**defines, **split})
            return bpf, ""
        except (time_split.SplitError, _BuildError) as error:
            reason = str(error)
    unsplit = {macro: value for macro, value in defines.items() if macro not in time_split.MACROS}
    return _compile(bcc, {**request, "defines": unsplit}), reason


def _build(
    request: Mapping[str, Any], texts: Mapping[str, str], front: HostFront, btf: KernelBtf
) -> tuple[dict[str, Any], list[int]]:
    """Build the request's program; returns the answer and its descriptors. Raises _BuildError, OSError."""
    bcc = _import_bcc()
    _raise_memlock()
    bpf, unsplit_reason = _compile_split(bcc, request, btf)
    raw = bcc.BPF.RAW_TRACEPOINT
    names = events(request["kind"], request["front"])
    check, front = _check_raw(bcc, bpf, front, texts) if request["sysfs"] else (ExitCheck({}), front)
    programs = {}
    for name in names:
        if name == "kvm_exit":
            programs[name], front = _load_kvm_exit(bcc, bpf, front)
        else:
            programs[name] = _load(bpf, name, raw)
    extra = bcc.BPF.TRACEPOINT if request["extra_classic"] else raw
    programs.update((name, _load(bpf, name, extra)) for name in request["extra_programs"])
    maps = {name: bpf[name].map_fd for name in MAPS[request["kind"]]}
    for stack, entries in STACKS[request["kind"]].items():
        for number in range(request[entries], 0, -1):
            syscall.stack_push(maps[stack], number)
    attachments = {"stats": _enable_stats()} if request["bpf_stats"] else {}
    if request["attach"]:
        # The end of threads first: a thread whose end is missed keeps its slot. An exit before the first entry is
        # harmless.
        for name in reversed(names):
            if name == "kvm_exit":
                attachments[name], front = _attach_kvm_exit(bcc, bpf, front, texts, programs)
            else:
                attachments[name] = _attach_raw(name, programs[name])
    answer = {
        "maps": list(maps),
        "programs": list(programs),
        "attachments": list(attachments),
        "layouts": {name: _layout(bpf[name]) for name in ARRAYS[request["kind"]]},
        "formats": texts,
        "vcpu_ids": front.vcpu_ids,
        "classic_reason": front.classic_reason,
        "unsplit_reason": unsplit_reason,
        "check": list(check.descriptors),
    }
    return answer, [*maps.values(), *programs.values(), *attachments.values(), *check.descriptors.values()]


def _answer(request: dict[str, Any], parent: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the answer and its descriptors; the answer may be an error."""
    texts: dict[str, str] = {}
    front = HostFront(request["defines"], vcpu_ids=False)
    btf = KernelBtf(Path(request["sysfs"]))
    try:
        if request["sysfs"]:
            texts = _wait_for_kvm(Path(request["sysfs"]), parent)
            front = _host_front(request, texts, btf)
        return _build(request, texts, front, btf)
    except LoadError as error:
        answer: dict[str, Any] = {"error": error.what, "remedy": error.remedy}
    except _BuildError as error:
        answer = error.answer
    return {**answer, "lacks": host.lacks(request)}, []


def _exit_with(parent: socket.socket) -> None:
    """Exit when the other end of the socket is closed.

    PR_SET_PDEATHSIG is no help: a parent that has dropped its privileges may not signal this process, not even by its
    own end.
    """
    parent.recv(1)
    os._exit(1)


def _receive_front(request: dict[str, Any], parent: socket.socket) -> None:
    """Complete a late replay request. The name comes from a process without privileges: only known ones are taken."""
    isa = registry.BY_NAME.get(parent.recv(64).decode(errors="replace"))
    if not isa:
        os._exit(1)
    request.update(front=isa.name, defines=isa.replay_defines)


def _main() -> None:
    with socket.socket(fileno=0) as parent:
        request = json.loads(sys.argv[1])
        if not request["front"] and not request["sysfs"]:
            _receive_front(request, parent)
        threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
        answer, fds = _answer(request, parent)
        socket.send_fds(parent, [json.dumps(answer).encode()], fds)
    # Without bcc's cleanup at exit: the kernel closes everything anyway.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    _main()
