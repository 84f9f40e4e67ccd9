"""`kvm-exit-exporter check`: what the host must have, row by row, and how to get what is missing.

Every row looks for itself, so that one thing missing does not hide the next. The last one is a trial load of
the program, which is the proof where a distribution's kernel differs from its version.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

CAP_SYS_ADMIN, CAP_SYS_RESOURCE, CAP_PERFMON, CAP_BPF = 21, 24, 38, 39  # include/uapi/linux/capability.h
_VISIBLE = ("hidepid=0", "hidepid=off")
PROC_PID_INIT_INO = 0xEFFFFFFC  # include/linux/proc_ns.h: the inode of the host's pid namespace

MOUNT_TRACEFS = "mount -t tracefs nodev /sys/kernel/tracing"
READ_TRACEFS = "run as root, or with CAP_DAC_READ_SEARCH (tracefs is mounted for root alone)"
_MODPROBE = {
    "x86_64": "modprobe kvm_intel (Intel) or modprobe kvm_amd (AMD)",
    "aarch64": "arm64 has KVM built in: a kernel with CONFIG_KVM=y, booted at EL2",
}

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Check:
    """One row. A thing that is not needed is ok, present or not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    needed: bool = True

    @property
    def state(self) -> str:
        """`ok`, `missing` or `not needed`."""
        if not self.ok:
            return "missing"
        return "ok" if self.needed else "not needed"


def run(
    *,
    proc: Path,
    sys: Path,
    tracefs: Path | None,
    trial: Callable[[], str],
    release: str,
    machine: str,
    map_bytes: int,
    dev: Path = Path("/dev"),
    modules: Path = Path("/lib/modules"),
    kernel_headers: str = "builtin",
) -> list[Check]:
    """Look at everything the exporter needs; raises nothing.

    `proc`, `sys`, `dev` and `modules` are the roots to look under, `tracefs` is what find_tracefs() found,
    `release` and `machine` are uname's, `map_bytes` is what the maps will take, `kernel_headers` the option.
    `trial` compiles and loads the program without attaching it and returns a detail; the `what` and `remedy`
    of what it raises are shown, where it has them.
    """
    version = kernel_version(release)
    caps = _capabilities_of(proc)
    return [
        _kernel(release, version),
        _architecture(machine),
        _tracefs(tracefs),
        _tracepoints("kvm", ("kvm_exit", "kvm_entry", "kvm_userspace_exit"), tracefs, _MODPROBE.get(machine, "")),
        _tracepoints(
            "sched", ("sched_process_exit", "sched_process_exec"), tracefs, "a kernel with CONFIG_TRACEPOINTS=y"
        ),
        _dev_kvm(dev / "kvm"),
        _capabilities(caps, version),
        _lockdown(sys / "kernel/security/lockdown"),
        _memlock(proc / "self/limits", map_bytes, caps, version),
        _pid_namespace(proc / "self/ns/pid"),
        _hidepid(proc / "self/mountinfo", proc),
        _btf(sys / "kernel/btf/vmlinux"),
        _headers(kernel_headers, modules / release / "build", sys / "kernel/kheaders.tar.xz"),
        _python_modules(_version_of),
        _jit(proc / "sys/net/core/bpf_jit_enable"),
        _trial(trial),
    ]


def status(checks: Iterable[Check]) -> int:
    """The exit status: 0 if nothing is missing, else 1."""
    return int(not all(check.ok for check in checks))


def table(checks: Sequence[Check]) -> str:
    """The rows as text of at most 80 columns where the words allow it, remedies on lines of their own."""
    name_width = max([len("CHECK"), *(len(check.name) for check in checks)])
    rows = [Check("CHECK", True, "DETAIL -> REMEDY"), *checks]
    lines = []
    for number, check in enumerate(rows):
        head = f"{check.name:<{name_width}}  {check.state if number else 'STATE':<10}  "
        indent = " " * len(head)
        lines += _wrapped(check.detail, head, indent)
        if check.remedy:
            lines += _wrapped(check.remedy, indent + "-> ", indent + "   ")
    return "\n".join(lines) + "\n"


def kernel_version(release: str) -> Version | None:
    """Version of a kernel release: (6, 1, 0) of "6.1.0-56-cloud-arm64"; None if it is no such thing."""
    match = re.match(r"([0-9]{1,4})\.([0-9]{1,4})(?:\.([0-9]{1,4}))?(?![0-9])", release)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def find_tracefs(sys: Path) -> Path | None:
    """Where tracefs is mounted under a sys root, else None. Unmounted, kernel/tracing is an empty directory.

    A directory that may not be looked into counts as mounted: the empty one is open to everybody.
    """
    for candidate in (sys / "kernel/tracing", sys / "kernel/debug/tracing"):
        try:
            if any(candidate.iterdir()):
                return candidate
        except PermissionError:
            return candidate
        except OSError:
            continue
    return None


def _kernel(release: str, version: Version | None) -> Check:
    name, remedy = "kernel", "boot Linux 5.5 or newer"
    if version is None:
        return Check(name, False, f"{release!r} is no kernel release", remedy)
    if version < (5, 5, 0):
        # commit fc9702273e2e ("bpf: Add mmap() support for BPF_MAP_TYPE_ARRAY")
        return Check(name, False, f"{release}: array maps cannot be mapped before 5.5", remedy)
    if version < (5, 10, 0):
        # commit 1b4d60ec162f ("bpf: Enable BPF_PROG_TEST_RUN for raw_tracepoint")
        return Check(name, True, f"{release}; replay alone needs 5.10")
    return Check(name, True, release)


def _architecture(machine: str) -> Check:
    remedy = "" if machine in _MODPROBE else "run on an aarch64 or x86_64 host"
    return Check("architecture", not remedy, machine, remedy)


def _tracefs(tracefs: Path | None) -> Check:
    if tracefs is None:
        return Check("tracefs", False, "not mounted", MOUNT_TRACEFS)
    try:
        next(iter((tracefs / "events").iterdir()), None)
    except PermissionError as error:
        return Check("tracefs", False, f"{tracefs}: {error.strerror}", READ_TRACEFS)
    except OSError as error:
        return Check("tracefs", False, f"{tracefs}/events: {error.strerror}", MOUNT_TRACEFS)
    return Check("tracefs", True, str(tracefs))


def _tracepoints(system: str, events: tuple[str, ...], tracefs: Path | None, remedy: str) -> Check:
    name = f"{system} tracepoints"
    if tracefs is None:
        return Check(name, False, "cannot be seen without tracefs", MOUNT_TRACEFS)
    wrong = []
    for event in events:
        try:
            (tracefs / "events" / system / event / "format").read_bytes()
        except PermissionError as error:
            return Check(name, False, f"{system}/{event}: {error.strerror}", READ_TRACEFS)
        except OSError as error:
            wrong.append(f"{event}: {error.strerror}")
    return Check(name, False, ", ".join(wrong), remedy) if wrong else Check(name, True, ", ".join(events))


def _dev_kvm(path: Path) -> Check:
    # The exporter never opens it, and a container that watches the host's VMs need not have it.
    if _exists(path):
        return Check("/dev/kvm", True, "present")
    return Check("/dev/kvm", True, "absent: this host runs no VM, or its devices are hidden from here", needed=False)


def _capabilities_of(proc: Path) -> int | OSError:
    """The effective capability mask of this process, or why it cannot be told."""
    try:
        match = re.search(r"^CapEff:\s*([0-9a-f]+)$", (proc / "self/status").read_text(errors="replace"), re.M)
    except OSError as error:
        return error
    return int(match[1], 16) if match else 0


def _has(caps: int | OSError, cap: int) -> bool:
    return isinstance(caps, int) and bool(caps >> cap & 1)


def _capabilities(caps: int | OSError, version: Version | None) -> Check:
    if isinstance(caps, OSError):
        return Check("capabilities", False, f"{caps.filename}: {caps.strerror}", "mount -t proc nodev /proc")
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


def _lockdown(path: Path) -> Check:
    try:
        match = re.search(r"\[(\w+)\]", path.read_text(errors="replace"))
    except FileNotFoundError:
        return Check("lockdown", True, "none: the kernel or this container has no lockdown file")
    except OSError as error:
        return Check("lockdown", True, f"unknown: {error.strerror}")
    mode = match[1] if match else "unknown"
    if mode != "confidentiality":
        return Check("lockdown", True, mode)
    detail = "confidentiality: forbids BPF to read kernel memory, and tracefs"
    return Check("lockdown", False, detail, "boot with lockdown=integrity, or without lockdown=")


def _memlock(path: Path, map_bytes: int, caps: int | OSError, version: Version | None) -> Check:
    name = "memlock"
    if version and version >= (5, 11, 0):  # maps are charged to the memory cgroup instead
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


def _pid_namespace(path: Path) -> Check:
    name, host = "pid namespace", f"pid:[{PROC_PID_INIT_INO}]"
    remedy = "run in the host's pid namespace: docker --pid=host, hostPID: true in a Kubernetes pod"
    try:
        link = str(path.readlink())
    except OSError as error:
        return Check(name, False, f"{path}: {error.strerror}", "mount -t proc nodev /proc")
    if link == host:
        return Check(name, True, "the host's")
    return Check(name, False, f"{link} is not the host's: the pids of VMs mean others here", remedy)


def _hidepid(path: Path, proc: Path) -> Check:
    name = "hidepid"
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return Check(name, True, f"unknown: {error.strerror}")
    options: list[str] = []
    for line in lines:  # proc_pid_mountinfo(5): the fifth field is where, the last one the file system's options
        fields = line.split(" ")
        if len(fields) > 9 and fields[4] == str(proc) and fields[-3] == "proc":
            options = fields[-1].split(",")  # the mount on top comes last
    hidden = [option for option in options if option.startswith("hidepid=") and option not in _VISIBLE]
    if not hidden:
        return Check(name, True, "processes of other users can be seen")
    group = next((option for option in options if option.startswith("gid=")), "")
    detail = f"{hidden[0]}: the exporter, which is not root, sees no VM of another user: pids stand for names"
    if group:
        return Check(name, False, detail, f"add the user of run_as to the group of {group}")
    return Check(name, False, detail, f"mount -o remount,hidepid=0 {proc}, or with gid=GROUP and run_as's user in it")


def _btf(path: Path) -> Check:
    present = _exists(path)
    return Check("BTF", True, "present, not used" if present else "not used", needed=present)


def _headers(option: str, build: Path, archive: Path) -> Check:
    name = "kernel headers"
    if option == "builtin":
        return Check(name, True, "built-in headers", needed=False)
    if option != "system":
        return _found(name, [Path(option)], "give kernel_headers a header tree, or leave it builtin")
    return _found(name, [build, archive], "install the running kernel's headers, or set kernel_headers: builtin")


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


def _found(name: str, paths: Sequence[Path], remedy: str) -> Check:
    found = [str(path) for path in paths if _exists(path)]
    if found:
        return Check(name, True, found[0])
    return Check(name, False, f"no {' and no '.join(map(str, paths))}", remedy)


def _version_of(distribution: str) -> str:
    """The version of an installed distribution, "" where there is none."""
    from importlib import metadata  # noqa: PLC0415 - costs the waiting loader some megabytes

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _python_modules(version: Callable[[str], str]) -> Check:
    # bcc is left to the trial, which runs in a child: importing it here would cost this process 100 MB.
    found, missing = [], []
    for distribution in ("prometheus_client", "PyYAML", "tornado"):
        installed = version(distribution)
        if installed:
            found.append(f"{distribution} {installed}")
        else:
            missing.append(distribution)
    if missing:
        remedy = (
            "install python3-prometheus-client, python3-tornado and python3-yaml (Debian, Ubuntu), "
            "python3-prometheus_client, python3-tornado and python3-pyyaml (Fedora, RHEL)"
        )
        return Check("python modules", False, f"without {', '.join(missing)}", remedy)
    return Check("python modules", True, ", ".join(found))


def _jit(path: Path) -> Check:
    name, remedy = "BPF JIT", "sysctl -w net.core.bpf_jit_enable=1"
    try:
        value = path.read_text(errors="replace").strip()
    except OSError as error:  # the file is root's, and only in the host's network namespace
        return Check(name, True, f"unknown: {error.strerror}")
    if value == "1":
        return Check(name, True, "on")
    what = "off: the program is interpreted, and slow" if value == "0" else f"mode {value}: traces what it compiles"
    return Check(name, True, what, remedy)


def _trial(trial: Callable[[], str]) -> Check:
    try:
        return Check("trial load", True, trial())
    except Exception as error:  # whatever stops the program from loading is what this row is for
        what = str(getattr(error, "what", "") or error) or type(error).__name__
        return Check("trial load", False, what, str(getattr(error, "remedy", "")))


def _wrapped(text: str, head: str, indent: str) -> list[str]:
    # Words of a compiler or of a file: one paragraph, nothing that acts on a terminal.
    words = "".join(c if c.isprintable() else " " for c in text[:2000])
    return textwrap.wrap(words, 80, initial_indent=head, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False) or [head.rstrip()]  # fmt: skip
