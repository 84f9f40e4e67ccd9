"""Dragonball, the VMM that is a part of the shim of Kata Containers (runtime-rs)."""

from __future__ import annotations

from exporter.model.vm import Vm
from exporter.naming.vmm.definition import CommandLineIdentity, Vmm
from exporter.naming.vmm.options import option


def _read_identity(argv: list[str]) -> CommandLineIdentity:
    # containerd gives its shims the sandbox's id. The shim takes one dash or two (crates/shim/src/bin/main.rs).
    return CommandLineIdentity(option(argv, "-id", "--id"))


def _sample_command_line(vm: Vm, _machine: str) -> list[str]:
    return ["containerd-shim-kata-v2", "-id", vm.name]


DRAGONBALL = Vmm(
    label="dragonball",
    # If the sandbox's VMM is another one, the shim starts it as a process of its own, and runs no vCPU itself.
    programs=frozenset({"containerd-shim-kata-v2"}),
    program_prefixes=("containerd-shim-kata-",),  # containerd-shim-kata-dragonball-v2, for several configurations
    vcpu_comms=("db_vcpu{}",),  # dragonball/src/vcpu/vcpu_impl.rs
    read_identity=_read_identity,
    sample_command_line=_sample_command_line,
)
