"""Reads the identity of the VM that a process runs: its name, its uuid and its VMM."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from exporter.common.procfs import cgroup_paths, read_head
from exporter.model.vm import Vm
from exporter.naming import cgroup, cmdline
from exporter.naming.vmm import registry
from exporter.naming.vmm.definition import COMM_CHARACTERS, CommandLineIdentity

#: Linux allows 6 MB of arguments. The options with the identity are within the first MB.
_CMDLINE_BYTES = 1 << 20
#: A label value is repeated on every series of a VM. libvirt cuts names to 64 characters in most places.
_NAME_CHARACTERS = 128
_UUID_CHARACTERS = _VMM_CHARACTERS = 64


class Identity(NamedTuple):
    """A VM, and the origin of its name."""

    vm: Vm
    name_from_path: bool = False
    """The name is a part of a path, so other VMs may have the same name without knowing of each other."""


def unknown(pid: int) -> Vm:
    """Return the identity of a VM if only its pid is known."""
    return Vm(pid, str(pid), "", "unknown")


def identify(pid: int, proc: Path, read: Callable[[Path, int], bytes | None] = read_head) -> Identity:
    """Read the identity of a process's VM from `proc`/PID. Raises nothing, even if files are missing or invalid.

    A name on the command line takes precedence over the name in libvirt's cgroup. Reading the command line may block,
    see procfs.read_head(). If `read` returns None, it is identify_without_command_line().
    """
    process = proc / str(pid)
    raw = read(process / "cmdline", _CMDLINE_BYTES)
    return Identity(identify_without_command_line(pid, proc)) if raw is None else _identify(pid, process, raw)


def identify_without_command_line(pid: int, proc: Path) -> Vm:
    """Read the identity from files that never block: the uuid is empty, and the name is one of the cgroup or the pid.

    Raises nothing.
    """
    process = proc / str(pid)
    vm = _identify(pid, process, b"").vm
    return replace(vm, name=cgroup.pod(cgroup_paths(process)) or vm.name) if vm.name == str(pid) else vm


def _identify(pid: int, process: Path, raw: bytes) -> Identity:
    """Read the identity. `raw` is the command line."""
    argv = cmdline.split(raw)
    programs = _programs(process, argv)
    vmm, grammar = registry.recognise(programs, argv)
    stated = grammar.read_identity(argv) if grammar else CommandLineIdentity()
    domain = cgroup.libvirt_domain(cgroup_paths(process))
    name = stated.name or (domain.name if domain else "") or str(pid)
    if vmm:
        label = vmm.label
    elif domain:
        label = domain.vmm
    else:
        label = _clean(programs[0]) if programs else "unknown"
    vm = Vm(pid, name[:_NAME_CHARACTERS], stated.uuid[:_UUID_CHARACTERS], label)
    return Identity(vm, bool(stated.name) and stated.name_from_path)


def _programs(process: Path, argv: list[str]) -> list[str]:
    """Return the known names of a process's program: from argv[0], from the executable, and its comm.

    The exporter often may not read the link to the executable: that needs the right to trace the other process
    (ptrace(2), PTRACE_MODE_READ). The kernel cuts a comm after 15 bytes. If a comm of this length is the beginning of
    one of the other names, it is left out: the cut comm might look like a VMM's name.
    """
    try:
        executable = (process / "exe").readlink().name
    except OSError:
        executable = ""
    if executable.endswith(" (deleted)"):
        executable = executable[: -len(" (deleted)")]
    names = [cmdline.base_name(argv[0]) if argv else "", executable]
    comm = read_head(process / "comm", 64).decode(errors="replace").rstrip("\n")
    if len(comm) < COMM_CHARACTERS or not any(name.startswith(comm) for name in names):
        names.append(comm)
    return [cmdline.unwrapped(name) for name in names if name]


def _clean(program: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "_", program[:_VMM_CHARACTERS])
