"""What the running kernel offers."""

from __future__ import annotations

import re
from pathlib import Path

from exporter.kernel.isa import registry
from exporter.kernel.preflight.check import Check, exists

MOUNT_TRACEFS = "mount -t tracefs nodev /sys/kernel/tracing"
READ_TRACEFS = "run as root, or with CAP_DAC_READ_SEARCH (tracefs is mounted for root alone)"

Version = tuple[int, int, int]


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


def kernel(release: str, version: Version | None) -> Check:
    """The version: what it must have, and what it lacks."""
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


def architecture(machine: str) -> Check:
    """One whose exit reasons are known."""
    remedy = "" if machine in registry.BY_MACHINE else f"run on an {' or '.join(registry.BY_MACHINE)} host"
    return Check("architecture", not remedy, machine, remedy)


def tracefs_mounted(tracefs: Path | None) -> Check:
    """Mounted, and to be read."""
    if tracefs is None:
        return Check("tracefs", False, "not mounted", MOUNT_TRACEFS)
    try:
        next(iter((tracefs / "events").iterdir()), None)
    except PermissionError as error:
        return Check("tracefs", False, f"{tracefs}: {error.strerror}", READ_TRACEFS)
    except OSError as error:
        return Check("tracefs", False, f"{tracefs}/events: {error.strerror}", MOUNT_TRACEFS)
    return Check("tracefs", True, str(tracefs))


def kvm_tracepoints(tracefs: Path | None, machine: str) -> Check:
    """Those that are counted."""
    return _tracepoints("kvm", ("kvm_exit", "kvm_entry", "kvm_userspace_exit"), tracefs, registry.kvm_remedy(machine))


def sched_tracepoints(tracefs: Path | None) -> Check:
    """Those that tell the end of a vCPU."""
    events = ("sched_process_exit", "sched_process_exec")
    return _tracepoints("sched", events, tracefs, "a kernel with CONFIG_TRACEPOINTS=y")


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


def dev_kvm(path: Path) -> Check:
    """The exporter never opens it, and a container that watches the host's VMs need not have it."""
    if exists(path):
        return Check("/dev/kvm", True, "present")
    return Check("/dev/kvm", True, "absent: this host runs no VM, or its devices are hidden from here", needed=False)


def lockdown(path: Path) -> Check:
    """In mode confidentiality, BPF may read nothing."""
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


def btf(path: Path) -> Check:
    """Present or not: it is not used."""
    present = exists(path)
    return Check("BTF", True, "present, not used" if present else "not used", needed=present)


def jit(path: Path) -> Check:
    """Without it the program runs, slowly."""
    name, remedy = "BPF JIT", "sysctl -w net.core.bpf_jit_enable=1"
    try:
        value = path.read_text(errors="replace").strip()
    except OSError as error:  # the file is root's, and only in the host's network namespace
        return Check(name, True, f"unknown: {error.strerror}")
    if value == "1":
        return Check(name, True, "on")
    what = "off: the program is interpreted, and slow" if value == "0" else f"mode {value}: traces what it compiles"
    return Check(name, True, what, remedy)
