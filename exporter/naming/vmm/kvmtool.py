"""kvmtool, whose program is lkvm."""

from __future__ import annotations

from exporter.model.vm import Vm
from exporter.naming.vmm.definition import CommandLineIdentity, Vmm
from exporter.naming.vmm.options import option

#: The values of these options are the guest kernel's command line.
_FREE_TEXT = frozenset({"-p", "--params"})


def _read_identity(argv: list[str]) -> CommandLineIdentity:
    # In `lkvm run`, -n means --network. It means --name only in other subcommands (builtin-run.c).
    return CommandLineIdentity(option(argv, "--name", free_text=_FREE_TEXT))


def _sample_command_line(vm: Vm, _machine: str) -> list[str]:
    return ["lkvm", "run", "--name", vm.name]


KVMTOOL = Vmm(
    label="kvmtool",
    programs=frozenset({"lkvm", "lkvm-static", "kvmtool"}),
    subcommands=frozenset({("kvm", "run")}),  # `kvm` with QEMU's options is QEMU, see qemu.py
    vcpu_comms=("kvm-vcpu-{}",),  # builtin-run.c
    read_identity=_read_identity,
    sample_command_line=_sample_command_line,
)
