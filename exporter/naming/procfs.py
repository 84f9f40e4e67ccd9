"""Bounded reads below the proc root. A process may end between two reads."""

from __future__ import annotations

from pathlib import Path

_CGROUP_BYTES = 64 * 1024


def read_head(path: Path, limit: int) -> bytes:
    """The first `limit` bytes of a file, b"" when it cannot be read.

    /proc/PID/cmdline can block for as long as the process's mmap_lock is held (fs/proc/base.c,
    get_mm_cmdline(), by way of access_remote_vm()); the other files that are read here do not take it.
    """
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError:
        return b""


def cgroup_paths(process: Path) -> list[str]:
    """Paths of the cgroups in `process`/cgroup, in the file's order, without a slash at the end.

    One line per hierarchy, `ID:CONTROLLERS:PATH`; cgroup v2 is `0::PATH` (cgroups(7)). The kernel appends
    " (deleted)" to the path of a cgroup that was removed.
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
