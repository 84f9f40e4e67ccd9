"""The form in which a VMM's file states its facts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from exporter.model.vm import Vm

#: The rest of the name of a release: firecracker-v1.7.0-x86_64, qemu-9.2.
_VERSION = re.compile(r"[-_.]v?[0-9].*", re.DOTALL)


class CommandLineIdentity(NamedTuple):
    """Name and uuid of a VM from its command line, "" for each that the command line lacks."""

    name: str = ""
    uuid: str = ""


def _no_typical_options(_argv: list[str]) -> bool:
    return False


@dataclass(frozen=True)
class Vmm:
    """A virtual machine monitor: all facts about it that the exporter uses."""

    label: str
    """Value of the label `vmm`. The name of a fork or a renamed build often begins with it, see is_similar()."""

    programs: frozenset[str]
    """Names of its program. A version may follow each of them (firecracker-v1.7)."""

    vcpu_comm: str
    """Comm of a vCPU's thread, with {} for the index. KVM's greatest index fits in the 15 bytes of a comm."""

    read_identity: Callable[[list[str]], CommandLineIdentity]
    """Reads name and uuid from argv; raises nothing, whatever the arguments are."""

    sample_command_line: Callable[[Vm, str], list[str]]
    """Makes argv that states a VM's identity. The second argument is the host's machine name (uname -m)."""

    program_prefixes: tuple[str, ...] = ()
    """Each name that begins with one of these is a name of its program."""

    subcommands: frozenset[tuple[str, str]] = frozenset()
    """(program, first argument): a name that is this VMM's only with this argument after it."""

    libvirt_driver: str = ""
    """Name of its libvirt driver in cgroup paths, "" where libvirt has none."""

    has_typical_options: Callable[[list[str]], bool] = _no_typical_options
    """True for argv whose options show by themselves that they are this VMM's, under any program name."""

    typical_options: tuple[str, ...] = ()
    """Arguments that make has_typical_options() true for a sample command line."""

    def is_program(self, program: str) -> bool:
        """Whether the base name of a program is a name of this VMM's program."""
        return (
            program in self.programs
            or program.startswith(self.program_prefixes)
            or any(program.startswith(name) and _VERSION.fullmatch(program[len(name) :]) for name in self.programs)
        )

    def is_similar(self, program: str) -> bool:
        """Whether a program's name begins with the label: a fork, a renamed build or a tool (qemu-img)."""
        return program.startswith(self.label) and not program[len(self.label) :][:1].isalpha()
