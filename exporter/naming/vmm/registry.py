"""The list of VMMs, and the functions that find one."""

from __future__ import annotations

from typing import NamedTuple

from exporter.naming.vmm.cloud_hypervisor import CLOUD_HYPERVISOR
from exporter.naming.vmm.crosvm import CROSVM
from exporter.naming.vmm.definition import Vmm
from exporter.naming.vmm.dragonball import DRAGONBALL
from exporter.naming.vmm.firecracker import FIRECRACKER
from exporter.naming.vmm.gvisor import GVISOR
from exporter.naming.vmm.kvmtool import KVMTOOL
from exporter.naming.vmm.qemu import QEMU
from exporter.naming.vmm.stratovirt import STRATOVIRT
from exporter.naming.vmm.virtualbox import VIRTUALBOX

VMMS = (QEMU, FIRECRACKER, CLOUD_HYPERVISOR, CROSVM, KVMTOOL, STRATOVIRT, DRAGONBALL, VIRTUALBOX, GVISOR)


MOVING = frozenset(vmm.label for vmm in VMMS if vmm.moves_vcpus)
"""Labels of the VMMs whose vCPUs move between threads. Their idle threads are not stuck."""


class Recognised(NamedTuple):
    """The VMM that a process is, and the VMM whose options it understands; each is None if unknown."""

    vmm: Vmm | None
    grammar: Vmm | None


def by_label(label: str) -> Vmm | None:
    """Return the VMM with this value of the label `vmm`; None if there is no such VMM."""
    return next((vmm for vmm in VMMS if vmm.label == label), None)


def recognise(programs: list[str], argv: list[str]) -> Recognised:
    """Find the VMM of a process, and the VMM whose options it understands.

    `programs` has the base names of its program, the preferred one first. A process is a VMM if one of these names is a
    name of the VMM's program. It is also the VMM if one of these names begins with the VMM's label, and the options are
    typical of the VMM.

    If only the name or only the options match, the options are read like the VMM's, but the process is not that VMM. So
    the VM of a fork or a renamed build keeps its name, and the label `vmm` is the name of the program.
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
