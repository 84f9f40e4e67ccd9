"""crosvm."""

from __future__ import annotations

from exporter.model.vm import Vm
from exporter.naming.vmm.definition import CommandLineIdentity, Vmm
from exporter.naming.vmm.options import option, socket_name

#: The values of these options are the guest kernel's command line.
_FREE_TEXT = frozenset({"-p", "--params"})
_OWN_WORDS = frozenset({"crosvm"})


def _read_identity(argv: list[str]) -> CommandLineIdentity:
    socket = option(argv, "--socket", "-s", free_text=_FREE_TEXT)
    name = option(argv, "--name", free_text=_FREE_TEXT)
    if name:
        return CommandLineIdentity(name)
    return CommandLineIdentity(socket_name(socket, words=_OWN_WORDS), name_from_path=True)


def _sample_command_line(vm: Vm, _machine: str) -> list[str]:
    return ["crosvm", "run", "--name", vm.name]


CROSVM = Vmm(
    label="crosvm",
    programs=frozenset({"crosvm", "crosvm-direct"}),  # crosvm-direct: ChromeOS' second build of it
    vcpu_comms=("crosvm_vcpu{}",),  # vcpu.rs
    read_identity=_read_identity,
    sample_command_line=_sample_command_line,
)
