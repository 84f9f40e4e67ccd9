"""Rows about the running kernel."""

from __future__ import annotations

import re
from pathlib import Path

from exporter.common.procfs import read_head
from exporter.kernel import time_split
from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa import registry
from exporter.kernel.isa.entry import Version
from exporter.kernel.preflight.check import Check, exists
from exporter.kernel.program import TRACEPOINTS, events
from exporter.kernel.remedies import MOUNT_TRACEFS, NEWER_KERNEL, READ_TRACEFS, UNLOCK
from exporter.kernel.tracepoint import FormatError, TracepointFormat, parse_format

_MOUNTS_BYTES = 1 << 20
_CONFIDENTIALITY = "confidentiality"
CLOSED = "the kernel is locked down (confidentiality), so tracefs is closed"
"""The sentence for a locked kernel; remedies.UNLOCK is its remedy."""


def kernel_version(release: str) -> Version | None:
    """Return the version of a kernel release: (6, 1, 0) of "6.1.0-56-cloud-arm64"; None if it has another form."""
    match = re.match(r"([0-9]{1,4})\.([0-9]{1,4})(?:\.([0-9]{1,4}))?(?![0-9])", release)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def find_tracefs(sys: Path) -> Path | None:
    """Return the directory where tracefs is mounted under a root of sysfs; None if it is not mounted.

    Without tracefs, kernel/tracing is an empty directory that everybody may read. So a directory that this process may
    not read counts as mounted.
    """
    for candidate in _tracefs_folders(sys):
        try:
            if any(candidate.iterdir()):
                return candidate
        except PermissionError:
            return candidate
        except OSError:
            continue
    return None


def why_no_tracefs(sys: Path, proc: Path) -> tuple[str, str]:
    """Return the cause and the remedy if find_tracefs() returns None.

    With lockdown=confidentiality, tracefs has no file (fs/tracefs/inode.c, tracefs_create_file()). In a container, the
    file that tells the mode of lockdown may be missing.
    """
    if is_locked_down(sys):
        return CLOSED, UNLOCK
    mounts = [
        line.split(" ")
        for line in read_head(proc / "self/mountinfo", _MOUNTS_BYTES).decode(errors="replace").splitlines()
    ]
    for candidate in _tracefs_folders(sys):
        # proc_pid_mountinfo(5): the fifth field is the mount point, the third one from the end the type.
        if any(fields[4:5] == [str(candidate)] and fields[-3:-2] == ["tracefs"] for fields in mounts):
            return f"tracefs is mounted on {candidate}, but empty: the kernel may be locked down", UNLOCK
    return "tracefs is not mounted", MOUNT_TRACEFS


def is_locked_down(sys: Path) -> bool:
    """Return whether the kernel is locked down in mode confidentiality: tracefs is closed, even for root."""
    try:
        return _lockdown_mode(sys) == _CONFIDENTIALITY
    except OSError:
        return False


def _lockdown_mode(sys: Path) -> str:
    """Return the mode of lockdown; "unknown" if the file names none. Raises OSError."""
    match = re.search(r"\[(\w+)\]", (sys / "kernel/security/lockdown").read_text(errors="replace"))
    return match[1] if match else "unknown"


def _tracefs_folders(sys: Path) -> tuple[Path, ...]:
    return (sys / "kernel/tracing", sys / "kernel/debug/tracing")


def check_version(release: str, version: Version | None) -> Check:
    """Check that the kernel is new enough."""
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


def check_architecture(machine: str) -> Check:
    """Check that the exporter knows this machine's instruction set."""
    remedy = registry.machine_remedy(machine)
    return Check("architecture", not remedy, machine, remedy)


def check_tracefs(tracefs: Path | None, sys: Path, proc: Path) -> Check:
    """Check that tracefs is mounted, and that this process may read it."""
    if tracefs is None:
        what, remedy = why_no_tracefs(sys, proc)
        return Check("tracefs", False, what.removeprefix("tracefs is "), remedy)
    try:
        next(iter((tracefs / "events").iterdir()), None)
    except PermissionError as error:
        return Check("tracefs", False, f"{tracefs}: {error.strerror}", _read_remedy(sys))
    except OSError as error:
        return Check("tracefs", False, f"{tracefs}/events: {error.strerror}", MOUNT_TRACEFS)
    return Check("tracefs", True, str(tracefs))


def _read_remedy(sys: Path) -> str:
    """Return the remedy for a file of tracefs that this process may not read."""
    return UNLOCK if is_locked_down(sys) else READ_TRACEFS


def check_kvm_tracepoints(tracefs: Path | None, sys: Path, proc: Path, machine: str) -> Check:
    """Check that the tracepoints of KVM exist."""
    remedy = NEWER_KERNEL if tracefs and has_kvm_without_exit(tracefs) else registry.kvm_remedy(machine)
    return _check_tracepoints("kvm", tracefs, sys, proc, remedy)


def has_kvm_without_exit(tracefs: Path) -> bool:
    """Return True if KVM has tracepoints, but not kvm_exit: on riscv64 before Linux 6.11, for example.

    virt/kvm/kvm_main.c, which every KVM has, makes kvm_userspace_exit.
    """
    kvm = tracefs / "events/kvm"
    return exists(kvm / "kvm_userspace_exit/format") and not exists(kvm / "kvm_exit/format")


def check_sched_tracepoints(tracefs: Path | None, sys: Path, proc: Path) -> Check:
    """Check that the tracepoints for the end of a thread exist."""
    return _check_tracepoints("sched", tracefs, sys, proc, "a kernel with CONFIG_TRACEPOINTS=y")


def _check_tracepoints(system: str, tracefs: Path | None, sys: Path, proc: Path, remedy: str) -> Check:
    name = f"{system} tracepoints"
    if tracefs is None:
        return Check(name, False, "cannot be seen without tracefs", why_no_tracefs(sys, proc)[1])
    kvm_exit = _kvm_exit(tracefs)
    isa = registry.recognise(kvm_exit.fields) if kvm_exit else None  # if no front fits, the trial load says so
    needed = [event for event in events("counting", isa.name if isa else "") if TRACEPOINTS[event].system == system]
    wrong = []
    for event in needed:
        try:
            (tracefs / "events" / system / event / "format").read_bytes()
        except PermissionError as error:
            return Check(name, False, f"{system}/{event}: {error.strerror}", _read_remedy(sys))
        except OSError as error:
            wrong.append(f"{event}: {error.strerror}")
    return Check(name, False, ", ".join(wrong), remedy) if wrong else Check(name, True, ", ".join(needed))


def _kvm_exit(tracefs: Path) -> TracepointFormat | None:
    """Return the format of kvm_exit; None if it cannot be read. The row about KVM's tracepoints says why."""
    try:
        return parse_format((tracefs / "events/kvm/kvm_exit/format").read_text())
    except (OSError, UnicodeDecodeError, FormatError):
        return None


def check_dev_kvm(path: Path) -> Check:
    """Look for /dev/kvm. It is not needed: the exporter never opens it, and its container may lack it."""
    if exists(path):
        return Check("/dev/kvm", True, "present")
    return Check("/dev/kvm", True, "absent: this host runs no VM, or its devices are hidden from here", needed=False)


def check_lockdown(sys: Path, tracefs: Path | None) -> Check:
    """Check that the kernel did not boot in lockdown mode confidentiality: tracefs is then empty.

    A lockdown that began later leaves the tracepoints, and the loader finds a program that reads no kernel memory.
    """
    try:
        mode = _lockdown_mode(sys)
    except FileNotFoundError:
        return Check("lockdown", True, "none: the kernel or this container has no lockdown file")
    except OSError as error:
        return Check("lockdown", True, f"unknown: {error.strerror}")
    if mode != _CONFIDENTIALITY:
        return Check("lockdown", True, mode)
    if tracefs:
        return Check("lockdown", True, f"{mode}: BPF may not read kernel memory, but there are tracepoints")
    return Check("lockdown", False, f"{mode}: forbids BPF to read kernel memory, and tracefs", UNLOCK)


def check_btf(sys: Path, btf: KernelBtf, tracefs: Path | None, machine: str, version: Version | None) -> Check:
    """Look for the BTF that says where KVM keeps the reason of an exit. Without it, the classic tracepoint is read."""
    name, isa = "BTF", registry.BY_MACHINE.get(machine)
    if isa is None or not isa.uses_btf:
        present = exists(sys / "kernel/btf/vmlinux")
        return Check(name, True, "present, not used" if present else "not used", needed=present)
    kvm_exit = _kvm_exit(tracefs) if tracefs else None
    if kvm_exit is None:
        return Check(name, True, "unknown: kvm_exit cannot be read", needed=False)
    reason = isa.host_front(kvm_exit.fields, btf, version).classic_reason
    if reason:
        return Check(
            name, True, f"kvm_exit is read from its classic tracepoint, which costs more: {reason}", needed=False
        )
    return Check(name, True, "kvm_exit is read from its raw tracepoint")


def check_time_split(btf: KernelBtf) -> Check:
    """Look for the BTF that says where the scheduler's figures are. Without it, the time of exits is not split."""
    try:
        time_split.offsets(btf)
    except time_split.SplitError as error:
        return Check("time split", True, f"the time of exits is not split: {error}", needed=False)
    return Check("time split", True, "the scheduler tells waiting for a CPU from sleeping")


def check_jit(path: Path) -> Check:
    """Check that the kernel compiles BPF programs to machine code. Otherwise they run, but slowly."""
    name, remedy = "BPF JIT", "sysctl -w net.core.bpf_jit_enable=1"
    try:
        value = path.read_text(errors="replace").strip()
    except OSError as error:  # only root may read the file, and only in the host's network namespace
        return Check(name, True, f"unknown: {error.strerror}")
    if value == "1":
        return Check(name, True, "on")
    what = "off: the program is interpreted, and slow" if value == "0" else f"mode {value}: traces what it compiles"
    return Check(name, True, what, remedy)
