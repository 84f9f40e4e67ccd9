"""The list of instruction sets, and look-ups in it.

A new instruction set needs a file in this folder, a line in ISAS, a front in kernel/bpf, its spaces in model/reason.py,
and a test. No other module names an instruction set.
"""

from __future__ import annotations

from collections.abc import Mapping

from exporter.kernel.isa import arm64, arm64_openeuler, riscv64, userspace, x86
from exporter.kernel.isa.entry import Fields, Isa

ISAS = (arm64.ISA, arm64_openeuler.ISA, x86.ISA, riscv64.ISA)

BY_NAME: Mapping[str, Isa] = {isa.name: isa for isa in ISAS}
BY_MACHINE: Mapping[str, Isa] = {machine: isa for isa in ISAS for machine in isa.machines}

EXIT_SPACES = tuple(space for isa in ISAS for space in isa.spaces)
"""Spaces of kvm:kvm_exit."""
USERSPACE_SPACES = userspace.SPACES
"""Spaces of kvm:kvm_userspace_exit, the same on every ISA."""

RESERVED = ("UNKNOWN", *(name for space in (*EXIT_SPACES, *USERSPACE_SPACES) for name in space.reserved))
"""Beginnings of the names that the exporter makes."""


def recognise(kvm_exit: Fields) -> Isa | None:
    """Return the ISA that has these fields in kvm:kvm_exit; None if no ISA has them."""
    return next((isa for isa in ISAS if isa.recognise(kvm_exit)), None)


def machine_remedy(machine: str) -> str:
    """Return the remedy for a machine (`uname -m`) that is not supported; "" for a supported one."""
    return "" if machine in BY_MACHINE else f"run on an {' or '.join(BY_MACHINE)} host"


def kvm_remedy(machine: str) -> str:
    """Return the remedy for a kernel of this machine (`uname -m`) without KVM; "" if the machine is not known."""
    isa = BY_MACHINE.get(machine)
    return isa.kvm_remedy if isa else ""
