"""Rows about the rights of this process, and about the processes that it sees."""

from __future__ import annotations

import re
from pathlib import Path

from exporter.common.procfs import HOST_PID_NAMESPACE, pid_namespace
from exporter.kernel.isa.entry import Version
from exporter.kernel.preflight.check import Check
from exporter.kernel.remedies import HOST_PIDS

CAP_SYS_ADMIN, CAP_SYS_RESOURCE, CAP_PERFMON, CAP_BPF = 21, 24, 38, 39  # include/uapi/linux/capability.h
_VISIBLE = ("hidepid=0", "hidepid=off")
_MOUNT_PROC = "mount -t proc nodev /proc"


def read_capabilities(proc: Path) -> int | OSError:
    """Return the effective capability mask of this process, or the error if it cannot be read."""
    try:
        match = re.search(r"^CapEff:\s*([0-9a-f]+)$", (proc / "self/status").read_text(errors="replace"), re.M)
    except OSError as error:
        return error
    return int(match[1], 16) if match else 0


def _has(caps: int | OSError, cap: int) -> bool:
    return isinstance(caps, int) and bool(caps >> cap & 1)


def check_capabilities(caps: int | OSError, version: Version | None) -> Check:
    """Check that this process may load and attach programs."""
    if isinstance(caps, OSError):
        return Check("capabilities", False, f"{caps.filename}: {caps.strerror}", _MOUNT_PROC)
    if _has(caps, CAP_SYS_ADMIN):
        return Check("capabilities", True, "CAP_SYS_ADMIN")
    if version and version < (5, 8, 0):  # before commit a17b53c4a4b5 ("bpf, capability: Introduce CAP_BPF")
        missing = ["SYS_ADMIN"]
    else:
        missing = [name for name, cap in (("BPF", CAP_BPF), ("PERFMON", CAP_PERFMON)) if not _has(caps, cap)]
    if not missing:
        return Check("capabilities", True, "CAP_BPF, CAP_PERFMON")
    names = " ".join(f"CAP_{name}" for name in missing)
    flags = " ".join(f"--cap-add {name}" for name in missing)
    remedy = f"run as root, or with AmbientCapabilities={names} in the systemd unit, or {flags} for a container"
    return Check("capabilities", False, f"without {names.replace(' ', ', ')}", remedy)


def check_memlock(path: Path, map_bytes: int, caps: int | OSError, version: Version | None) -> Check:
    """Check that the maps fit into the limit of locked memory: older kernels count maps as locked memory."""
    name = "memlock"
    if version and version >= (5, 11, 0):  # maps are charged to the memory cgroup
        return Check(name, True, "no limit on maps since Linux 5.11")
    if _has(caps, CAP_SYS_RESOURCE):
        return Check(name, True, "CAP_SYS_RESOURCE can raise it")
    remedy = "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit"
    try:
        match = re.search(
            r"^Max locked memory +(unlimited|\d+) +(unlimited|\d+)", path.read_text(errors="replace"), re.M
        )
    except OSError as error:
        return Check(name, False, f"{path}: {error.strerror}", remedy)
    soft, hard = (match[1], match[2]) if match else ("0", "0")
    if "unlimited" in (soft, hard):  # bcc raises the soft limit to the hard one
        return Check(name, True, "unlimited")
    ok = int(soft) >= map_bytes
    return Check(name, ok, f"{soft} bytes, the maps need {map_bytes}", "" if ok else remedy)


def check_pid_namespace(proc: Path) -> Check:
    """Check that this process is in the host's pid namespace, since the kernel reports pids of that namespace."""
    name = "pid namespace"
    try:
        namespace = pid_namespace(proc)
    except OSError as error:
        return Check(name, False, f"{error.filename}: {error.strerror}", _MOUNT_PROC)
    if namespace == HOST_PID_NAMESPACE:
        return Check(name, True, "the host's")
    detail = f"pid:[{namespace}] is not the host's: here, the pid of a VM means another process"
    return Check(name, False, detail, HOST_PIDS)


def check_hidepid(path: Path, proc: Path) -> Check:
    """Check that the exporter can see VMs of other users, whose names are in their command lines."""
    name = "hidepid"
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return Check(name, True, f"unknown: {error.strerror}")
    options: list[str] = []
    for (
        line
    ) in lines:  # proc_pid_mountinfo(5): the fifth field is the mount point, the last one the file system's options
        fields = line.split(" ")
        if len(fields) > 9 and fields[4] == str(proc) and fields[-3] == "proc":
            options = fields[-1].split(",")  # the last mount is on top
    hidden = [option for option in options if option.startswith("hidepid=") and option not in _VISIBLE]
    if not hidden:
        return Check(name, True, "processes of other users can be seen")
    group = next((option for option in options if option.startswith("gid=")), "")
    detail = (
        f"{hidden[0]}: the exporter, which is not root, sees no VM of another user, and shows pids in place of names"
    )
    if group:
        return Check(name, False, detail, f"add the user of run_as to the group of {group}")
    return Check(name, False, detail, f"mount -o remount,hidepid=0 {proc}, or with gid=GROUP and run_as's user in it")
