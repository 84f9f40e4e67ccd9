"""A VM and a vCPU, as they are named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vm:
    """A virtual machine: the process (TGID) that runs it, and what it is called.

    `name` is str(pid) and `uuid` "" when unknown; `vmm` is qemu, firecracker, cloud-hypervisor, crosvm,
    kvmtool, another program's base name, or "unknown". The strings are the VM owner's: any character may be
    in them.
    """

    pid: int
    name: str
    uuid: str
    vmm: str


@dataclass(frozen=True)
class Vcpu:
    """A vCPU: its VM, shared by all threads of one VM, and its index ("3"), "" if unknown."""

    vm: Vm
    index: str
