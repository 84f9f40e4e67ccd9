"""Reads files of /proc up to a size limit. A process may end between two reads."""

from __future__ import annotations

import re
from pathlib import Path

_CGROUP_BYTES = 64 * 1024
_STAT_BYTES = 4096

HOST_PID_NAMESPACE = 0xEFFFFFFC
"""Inode of the first PID namespace (PROC_PID_INIT_INO, include/linux/proc_ns.h). The program's pids are of this one."""


def read_head(path: Path, limit: int) -> bytes:
    """Return the first `limit` bytes of a file; b"" if it cannot be read.

    A read of /proc/PID/cmdline can block while another thread holds the process's mmap_lock (fs/proc/base.c,
    get_mm_cmdline(), which calls access_remote_vm()). The other files that are read here do not need this lock.
    """
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError:
        return b""


def cgroup_paths(process: Path) -> list[str]:
    """Return the paths of the cgroups in `process`/cgroup, in the file's order, without a slash at the end.

    The file has one line for each hierarchy, `ID:CONTROLLERS:PATH`, or `0::PATH` for cgroup v2 (cgroups(7)). The kernel
    appends " (deleted)" to the path of a cgroup that was removed.
    """
    text = read_head(process / "cgroup", _CGROUP_BYTES).decode(errors="replace")
    paths = []
    for line in text.split("\n"):
        path = line.split(":", 2)[-1] if line.count(":") >= 2 else ""
        if path.endswith(" (deleted)"):
            path = path[: -len(" (deleted)")]
        if path.startswith("/"):
            paths.append(path.rstrip("/"))
    return paths


def start_time(process: Path) -> int | None:
    """Return the start time of a process or thread, in clock ticks since boot; None if it cannot be read.

    It is field 22 of `process`/stat, see proc_pid_stat(5). The second field is the comm in parentheses, and the comm
    itself may contain parentheses.
    """
    _, parenthesis, rest = read_head(process / "stat", _STAT_BYTES).rpartition(b")")
    fields = rest.split()
    if not parenthesis or len(fields) < 20 or not re.fullmatch(rb"[0-9]{1,20}", fields[19]):
        return None
    return int(fields[19])


def pid_namespace(proc: Path) -> int:
    """Return the inode of the PID namespace of this process. Raises OSError."""
    # The link's text is pid:[INODE] (fs/nsfs.c, ns_get_name()).
    return int((proc / "self/ns/pid").readlink().name[len("pid:[") : -len("]")])


def has_foreign_pids(proc: Path) -> bool:
    """Return whether the program's pids mean other processes here, or none; False if that cannot be read."""
    try:
        return pid_namespace(proc) != HOST_PID_NAMESPACE
    except OSError:
        return False
