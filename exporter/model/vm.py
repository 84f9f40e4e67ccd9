"""Identity of a VM and of a vCPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vm:
    """A virtual machine: the process (TGID) that runs it, its name, its uuid and its VMM.

    If the name is unknown, `name` is str(pid). If the uuid is unknown, `uuid` is "". `vmm` is the label of the
    VMM. If the exporter does not know the VMM (naming/vmm), `vmm` is the base name of its program, or "unknown". The
    VM's owner chooses the strings, so they may contain any character.
    """

    pid: int
    name: str
    uuid: str
    vmm: str


@dataclass(frozen=True)
class Vcpu:
    """A vCPU: its VM, and its index ("3"; "" if unknown). All threads of a VM share one Vm."""

    vm: Vm
    index: str
