"""A fake host for the preflight. It is a tree of files that has everything that the exporter needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.kernel import preflight
from exporter.kernel.preflight import Check, find_tracefs
from exporter.kernel.program import TRACEPOINTS, events
from tests.support.btf import scheduler_btf

EVENTS = tuple(f"{TRACEPOINTS[event].system}/{event}" for event in events("counting", "arm64"))
KVM_EVENTS = tuple(event for event in events("counting", "arm64") if TRACEPOINTS[event].system == "kvm")
RELEASE = "6.1.0-56-cloud-arm64"
ALL_CAPS, SYS_ADMIN, SYS_RESOURCE, PERFMON, BPF = 0x1FFFFFFFFFF, 1 << 21, 1 << 24, 1 << 38, 1 << 39


@dataclass
class Host:
    """A host that has everything that the exporter needs. Each test removes something."""

    root: Path
    release: str = RELEASE
    machine: str = "aarch64"
    kernel_headers: str = "builtin"

    def __post_init__(self) -> None:
        self.proc, self.sys = self.root / "proc", self.root / "sys"
        self.tracefs = self.sys / "kernel/tracing"
        for event in EVENTS:
            self.write(self.tracefs / "events" / event / "format", "name: x\n")
        self.write(self.sys / "kernel/security/lockdown", "[none] integrity confidentiality\n")
        self.write(self.sys / "kernel/btf/vmlinux", "")
        (self.sys / "kernel/btf/vmlinux").write_bytes(scheduler_btf().content())
        self.write(self.proc / "sys/net/core/bpf_jit_enable", "1\n")
        self.write(self.root / "dev/kvm", "")
        self.caps(ALL_CAPS)
        self.memlock("8388608", "8388608")
        self.pid_namespace("pid:[4026531836]")
        self.proc_options("rw")

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def caps(self, mask: int) -> None:
        text = f"Name:\tpython3\nCapPrm:\t{ALL_CAPS:016x}\nCapEff:\t{mask:016x}\nCapBnd:\t{ALL_CAPS:016x}\n"
        self.write(self.proc / "self/status", text)

    def memlock(self, soft: str, hard: str) -> None:
        text = (
            "Limit                     Soft Limit           Hard Limit           Units     \n"
            "Max processes             63355                63355                processes \n"
            f"Max locked memory         {soft:<20} {hard:<20} bytes     \n"
        )
        self.write(self.proc / "self/limits", text)

    def proc_options(self, *options: str) -> None:
        """Set the options of the file systems that are mounted on /proc, one over the other."""
        lines = [f"{22 + i} 27 0:21 / {self.proc} rw shared:9 - proc proc {one}\n" for i, one in enumerate(options)]
        self.write(self.proc / "self/mountinfo", "21 27 0:20 / /sys rw - sysfs sysfs rw\n" + "".join(lines))

    def pid_namespace(self, link: str) -> None:
        path = self.proc / "self/ns/pid"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(link)

    def run(self, **changed: Any) -> list[Check]:
        world: dict[str, Any] = {
            "proc": self.proc,
            "sys": self.sys,
            "tracefs": find_tracefs(self.sys),
            "trial": lambda: "compiled and loaded in 0.3 s",
            "release": self.release,
            "machine": self.machine,
            "map_bytes": 10_000_000,
            "dev": self.root / "dev",
            "modules": self.root / "lib/modules",
            "kernel_headers": self.kernel_headers,
        }
        return preflight.run(**{**world, **changed})

    def row(self, name: str, **changed: Any) -> Check:
        (row,) = [check for check in self.run(**changed) if check.name == name]
        return row

    def missing(self) -> list[str]:
        return [check.name for check in self.run() if check.state == "missing"]


@contextmanager
def as_owner() -> Iterator[None]:
    """Act as the real user, who owns the files."""
    user = os.geteuid()
    os.seteuid(os.getuid())
    try:
        yield
    finally:
        os.seteuid(user)


def shut(path: Path) -> None:
    """Remove every permission of a file."""
    with as_owner():
        path.chmod(0)
