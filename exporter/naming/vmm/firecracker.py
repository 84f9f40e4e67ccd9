"""Firecracker."""

from __future__ import annotations

from exporter.model.vm import Vm
from exporter.naming.vmm.definition import CommandLineIdentity, Vmm
from exporter.naming.vmm.options import option


def _read_identity(argv: list[str]) -> CommandLineIdentity:
    # The jailer passes its own --id to Firecracker (docs/jailer.md).
    return CommandLineIdentity(option(argv, "--id"))


def _sample_command_line(vm: Vm, _machine: str) -> list[str]:
    return ["firecracker", "--id", vm.name]


FIRECRACKER = Vmm(
    label="firecracker",
    programs=frozenset({"firecracker"}),
    vcpu_comms=("fc_vcpu {}", "fc_vcpu{}"),  # vstate/vcpu.rs; the second one before 0.22
    read_identity=_read_identity,
    sample_command_line=_sample_command_line,
)
