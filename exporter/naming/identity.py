"""Which VM a process is: its name, its uuid and its VMM."""

from __future__ import annotations

import re
from pathlib import Path

from exporter.model.vm import Vm
from exporter.naming import cgroup, cmdline
from exporter.naming.procfs import cgroup_paths, read_head

#: Linux allows 6 MB of arguments; no VM's identity lies behind the first.
_CMDLINE_BYTES = 1 << 20
_STAT_BYTES = 4096
#: A label value is repeated on every series of a VM. libvirt's own names end at 64 characters in most places.
_NAME_CHARACTERS = 128
_UUID_CHARACTERS = _VMM_CHARACTERS = 64


def unknown(pid: int) -> Vm:
    """What is said of a VM of which nothing can be found out."""
    return Vm(pid, str(pid), "", "unknown")


def identify(pid: int, proc: Path) -> Vm:
    """Find out what VM a process is from `proc`/PID; raises nothing, whatever is missing or in there.

    The command line goes before libvirt's cgroup where both tell a name. Reading the command line may block,
    see procfs.read_head().
    """
    process = proc / str(pid)
    argv = cmdline.split(read_head(process / "cmdline", _CMDLINE_BYTES))
    programs = _programs(process, argv)
    vmm = cmdline.recognise(argv, programs)
    said = cmdline.parse(vmm, argv)
    domain = cgroup.libvirt_domain(cgroup_paths(process))
    name = said.name or (domain.name if domain else "") or str(pid)
    vmm = vmm or (domain.vmm if domain else "") or _clean(programs[0] if programs else "") or "unknown"
    return Vm(pid, name[:_NAME_CHARACTERS], said.uuid[:_UUID_CHARACTERS], vmm)


def start_time(pid: int, proc: Path) -> int | None:
    """When a process started, in clock ticks since boot: field 22 of `proc`/PID/stat, None if it is gone.

    proc_pid_stat(5). The second field is the comm in parentheses, and a comm may contain both.
    """
    _, parenthesis, rest = read_head(proc / str(pid) / "stat", _STAT_BYTES).rpartition(b")")
    fields = rest.split()
    if not parenthesis or len(fields) < 20 or not re.fullmatch(rb"[0-9]{1,20}", fields[19]):
        return None
    return int(fields[19])


def _programs(process: Path, argv: list[str]) -> list[str]:
    """Base names the program goes by: argv[0], the executable, the comm; without the empty ones."""
    try:
        executable = (process / "exe").readlink().name
    except OSError:
        executable = ""
    if executable.endswith(" (deleted)"):
        executable = executable[: -len(" (deleted)")]
    comm = read_head(process / "comm", 64).decode(errors="replace").rstrip("\n")
    names = (cmdline.base_name(argv[0]) if argv else "", executable, comm)
    return [name for name in names if name]


def _clean(program: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "_", program[:_VMM_CHARACTERS])
