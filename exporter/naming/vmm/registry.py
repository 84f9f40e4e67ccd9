"""The list of VMMs, and the ways to find one."""

from __future__ import annotations

from typing import NamedTuple

from exporter.naming.vmm.cloud_hypervisor import CLOUD_HYPERVISOR
from exporter.naming.vmm.crosvm import CROSVM
from exporter.naming.vmm.definition import Vmm
from exporter.naming.vmm.firecracker import FIRECRACKER
from exporter.naming.vmm.kvmtool import KVMTOOL
from exporter.naming.vmm.qemu import QEMU

VMMS = (QEMU, FIRECRACKER, CLOUD_HYPERVISOR, CROSVM, KVMTOOL)


class Recognised(NamedTuple):
    """The VMM that a process is, and the VMM whose options it takes; None if unknown."""

    vmm: Vmm | None
    grammar: Vmm | None


def by_label(label: str) -> Vmm | None:
    """The VMM with this value of the label `vmm`."""
    return next((vmm for vmm in VMMS if vmm.label == label), None)


def recognise(programs: list[str], argv: list[str]) -> Recognised:
    """Find the VMM of a process, and the VMM whose options it takes.

    `programs`: base names of its program, in the order of preference. A process is a VMM if one of them is a name of
    the VMM's program, or if one begins with the VMM's label and the options are typical of the VMM. If only the name
    begins so, or only the options are typical, the options are read as that VMM's, but the process is not that VMM.
    So a fork or a renamed build keeps its VM's name, and its label `vmm` is its own name.
    """
    for program in programs:
        for vmm in VMMS:
            if (program, *argv[1:2]) in vmm.subcommands:
                return Recognised(vmm, vmm)
        for vmm in VMMS:
            if vmm.is_program(program):
                return Recognised(vmm, vmm)
    for program in programs:
        for vmm in VMMS:
            if vmm.is_similar(program):
                return Recognised(vmm if vmm.has_typical_options(argv) else None, vmm)
    return Recognised(None, next((vmm for vmm in VMMS if vmm.has_typical_options(argv)), None))
