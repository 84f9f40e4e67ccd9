"""VirtualBox. Some builds of it run their vCPUs in the kernel's KVM."""

from __future__ import annotations

import re

from exporter.model.vm import Vm
from exporter.naming.vmm.definition import CommandLineIdentity, Vmm
from exporter.naming.vmm.options import option

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _read_identity(argv: list[str]) -> CommandLineIdentity:
    # VBoxSVC starts a VM with its name in --comment and its uuid in --startvm (MachineImpl.cpp). A user may start a VM
    # by its name.
    name = option(argv, "--comment", "-comment")
    machine = option(argv, "--startvm", "-startvm", "-s")
    if _UUID.fullmatch(machine):
        return CommandLineIdentity(name, machine)
    return CommandLineIdentity(name or machine)


def _sample_command_line(vm: Vm, _machine: str) -> list[str]:
    uuid = ["--startvm", vm.uuid] if vm.uuid else []
    return ["VBoxHeadless", "--comment", vm.name, *uuid]


VIRTUALBOX = Vmm(
    label="virtualbox",
    programs=frozenset({"VBoxHeadless", "VBoxSDL", "VirtualBoxVM"}),
    vcpu_comms=("EMT-{}",),  # VMMR3/VM.cpp
    only_vcpu_comm="EMT",
    read_identity=_read_identity,
    sample_command_line=_sample_command_line,
)
