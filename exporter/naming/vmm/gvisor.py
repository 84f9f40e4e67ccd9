"""gVisor. With --platform=kvm its sandbox runs in KVM, as a program whose vCPUs move between threads."""

from __future__ import annotations

from exporter.model.vm import Vm
from exporter.naming.vmm.definition import CommandLineIdentity, Vmm


def _read_identity(argv: list[str]) -> CommandLineIdentity:
    # runsc-sandbox [flags] boot [flags] ID (runsc/sandbox/sandbox.go)
    last = argv[-1] if "boot" in argv[:-1] else ""
    return CommandLineIdentity("" if last.startswith("-") else last)


def _sample_command_line(vm: Vm, _machine: str) -> list[str]:
    return ["runsc-sandbox", "boot", vm.name]


GVISOR = Vmm(
    label="gvisor",
    programs=frozenset({"runsc", "runsc-sandbox"}),
    vcpu_comms=(),
    moves_vcpus=True,  # pkg/sentry/platform/kvm/machine.go, machine.Get()
    read_identity=_read_identity,
    sample_command_line=_sample_command_line,
)
