"""`kvm-exit-exporter check`: a row for each thing that the host must have, and a remedy for each missing one.

The rows are checked independently, so that one missing thing does not hide the next. A cause comes before its effects.
The last row is a trial load of the program. Only this row proves that the program can be loaded: the kernel of a
distribution may have more or fewer features than its version says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable

from exporter.kernel.btf import KernelBtf
from exporter.kernel.preflight import kernel, rights, software
from exporter.kernel.preflight.check import Check, status, table
from exporter.kernel.preflight.kernel import find_tracefs, has_kvm_without_exit

__all__ = ["Check", "find_tracefs", "has_kvm_without_exit", "run", "status", "table"]


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
    """Check everything that the exporter needs; raises nothing.

    `proc`, `sys`, `dev` and `modules` are the roots of those trees, `tracefs` is the result of find_tracefs(),
    `release` and `machine` are those of uname, `map_bytes` is the size of the maps, `kernel_headers` the configuration
    key. `trial` compiles and loads the program without attaching it, and returns a detail. If it raises an exception,
    its row shows the exception's `what` and `remedy`, if it has them.
    """
    version = kernel.kernel_version(release)
    caps = rights.read_capabilities(proc)
    btf = KernelBtf(sys)  # to index the BTF of vmlinux takes seconds on a slow machine
    return [
        kernel.check_version(release, version),
        kernel.check_architecture(machine),
        kernel.check_lockdown(sys, tracefs),
        kernel.check_tracefs(tracefs, sys, proc),
        kernel.check_kvm_tracepoints(tracefs, sys, proc, machine),
        kernel.check_sched_tracepoints(tracefs, sys, proc),
        kernel.check_dev_kvm(dev / "kvm"),
        rights.check_capabilities(caps, version),
        rights.check_memlock(proc / "self/limits", map_bytes, caps, version),
        rights.check_pid_namespace(proc),
        rights.check_hidepid(proc / "self/mountinfo", proc),
        kernel.check_btf(sys, btf, tracefs, machine, version),
        kernel.check_time_split(btf),
        software.check_headers(kernel_headers, modules / release / "build", sys / "kernel/kheaders.tar.xz"),
        software.check_python_modules(software.version_of),
        kernel.check_jit(proc / "sys/net/core/bpf_jit_enable"),
        software.check_trial_load(trial),
    ]
