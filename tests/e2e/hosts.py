"""The emulated KVM hosts: a Debian suite on an architecture. This table holds every fact that depends on the suite.

Debian 11 also stands for Ubuntu 22.04, whose bcc and prometheus_client have the same versions.
"""

from __future__ import annotations

from dataclasses import dataclass

from apt import BOOKWORM, Suite


@dataclass(frozen=True)
class Host:
    """A machine that run.py can boot."""

    name: str
    suite: Suite
    architecture: str  # Debian's name
    linux: str  # the beginning of the kernel's version
    kernel: str  # the package of the kernel
    qemu: str  # the package with the QEMU that runs Linux guests in the machine
    bochs: bool = False  # True: Bochs emulates the machine, with an Intel CPU. Otherwise QEMU does

    @property
    def packages(self) -> list[str]:
        """Return the packages of its image. Their dependencies come with them."""
        return [*PACKAGES, self.kernel, self.qemu]


PACKAGES = [
    *("bash", "bpftool", "busybox-static", "coreutils", "curl", "grep", "iproute2", "kmod", "mount", "procps"),
    *("sed", "systemd", "tar", "util-linux"),
    *("dash", "debianutils", "diffutils", "dpkg", "findutils", "init-system-helpers", "libc-bin", "perl-base"),
    *("python3", "python3-bpfcc", "python3-prometheus-client", "python3-protobuf", "python3-tornado"),
    "python3-yaml",
]
QEMU_PACKAGES = {"arm64": "qemu-system-arm", "amd64": "qemu-system-x86"}

TRIXIE = Suite("trixie")
SUITES = {
    Suite("bullseye"): "5.10",  # alone, because mirrors no longer have all packages of its other suites
    BOOKWORM: "6.1",
    TRIXIE: "6.12",
    Suite("sid", check_valid_until=False): "7",  # mirrors that keep an old state have an expired sid
}


def _host(suite: Suite, architecture: str) -> Host:
    name = architecture if suite == BOOKWORM else f"{suite.name}-{architecture}"
    kernel = f"linux-image-cloud-{architecture}"
    return Host(name, suite, architecture, SUITES[suite], kernel, QEMU_PACKAGES[architecture])


def _intel(suite: Suite) -> Host:
    # The kernels for clouds have no drivers for the IDE disks of Bochs.
    name = "intel" if suite == BOOKWORM else f"{suite.name}-intel"
    return Host(name, suite, "amd64", SUITES[suite], "linux-image-amd64", QEMU_PACKAGES["amd64"], bochs=True)


MATRIX = [_host(suite, each) for suite in SUITES for each in QEMU_PACKAGES]
# Debian 13 is the first with riscv64. It has no riscv64 kernel for clouds.
RISCV64 = Host("riscv64", TRIXIE, "riscv64", SUITES[TRIXIE], "linux-image-riscv64", "qemu-system-riscv")
INTEL = [_intel(suite) for suite in SUITES if suite.name in ("bookworm", "trixie")]
HOSTS = {host.name: host for host in (*MATRIX, RISCV64, *INTEL)}
