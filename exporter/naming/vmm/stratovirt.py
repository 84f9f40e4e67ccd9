"""StratoVirt, the VMM of openEuler."""

from __future__ import annotations

from exporter.model.vm import Vm
from exporter.naming.vmm.definition import CommandLineIdentity, Vmm
from exporter.naming.vmm.options import option


def _read_identity(argv: list[str]) -> CommandLineIdentity:
    return CommandLineIdentity(_value(argv, "-name"), _value(argv, "-uuid"))


def _value(argv: list[str], name: str) -> str:
    """Return the value of an option; "" if it has none. A value never begins with a dash (util/src/arg_parser.rs)."""
    value = option(argv, name)
    return "" if value.startswith("-") else value


def _sample_command_line(vm: Vm, _machine: str) -> list[str]:
    uuid = ["-uuid", vm.uuid] if vm.uuid else []
    return ["stratovirt", "-name", vm.name, *uuid]


STRATOVIRT = Vmm(
    label="stratovirt",
    programs=frozenset({"stratovirt"}),
    vcpu_comms=("CPU {}/Kvm", "CPU {}/KVM"),  # cpu/src/lib.rs; the second one before 2.4
    read_identity=_read_identity,
    sample_command_line=_sample_command_line,
)
