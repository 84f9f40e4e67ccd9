"""`kvm-exit-exporter check`: what the host must have, row by row, and how to get what is missing.

Every row looks for itself, so that one thing missing does not hide the next. The last one is a trial load of
the program, which is the proof where a distribution's kernel differs from its version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable

from exporter.kernel.preflight import kernel, rights, software
from exporter.kernel.preflight.check import Check, status, table
from exporter.kernel.preflight.kernel import MOUNT_TRACEFS, READ_TRACEFS, find_tracefs

__all__ = ["MOUNT_TRACEFS", "READ_TRACEFS", "Check", "find_tracefs", "run", "status", "table"]


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
    version = kernel.kernel_version(release)
    caps = rights.capabilities_of(proc)
    return [
        kernel.kernel(release, version),
        kernel.architecture(machine),
        kernel.tracefs_mounted(tracefs),
        kernel.kvm_tracepoints(tracefs, machine),
        kernel.sched_tracepoints(tracefs),
        kernel.dev_kvm(dev / "kvm"),
        rights.capabilities(caps, version),
        kernel.lockdown(sys / "kernel/security/lockdown"),
        rights.memlock(proc / "self/limits", map_bytes, caps, version),
        rights.pid_namespace(proc / "self/ns/pid"),
        rights.hidepid(proc / "self/mountinfo", proc),
        kernel.btf(sys / "kernel/btf/vmlinux"),
        software.headers(kernel_headers, modules / release / "build", sys / "kernel/kheaders.tar.xz"),
        software.python_modules(software.version_of),
        kernel.jit(proc / "sys/net/core/bpf_jit_enable"),
        software.trial_load(trial),
    ]
