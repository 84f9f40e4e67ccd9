"""The facts about a VMM that each VMM's file must define."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from exporter.model.vm import Vm
from exporter.naming.cmdline import HIDDEN_NAMES

#: The end of a release's file name, which follows the program's name: firecracker-v1.7.0-x86_64, qemu-9.2.
_VERSION = re.compile(r"[-_.]v?[0-9].*", re.DOTALL)


COMM_CHARACTERS = 15
"""The kernel cuts a comm after this number of bytes (TASK_COMM_LEN without its NUL)."""


class CommandLineIdentity(NamedTuple):
    """Name and uuid of a VM from its command line; "" if the command line lacks the name or the uuid."""

    name: str = ""
    uuid: str = ""
    name_from_path: bool = False
    """The name is a part of a path. Other VMs may have the same path, for example in other mount namespaces."""


def _no_typical_options(_argv: list[str]) -> bool:
    return False


@dataclass(frozen=True)
class Vmm:
    """A virtual machine monitor: all facts about it that the exporter uses."""

    label: str
    """Value of the label `vmm`. Names of forks and renamed builds often begin with it, see is_similar()."""

    programs: frozenset[str]
    """Names of its program, or of the program that it is a part of. A version may follow (firecracker-v1.7)."""

    vcpu_comms: tuple[str, ...]
    """Comms of a vCPU's thread, with {} for the index. KVM's greatest index fits into the 15 bytes of a comm.

    Each is the comm of some releases. It is empty if the comm never has the index.
    """

    read_identity: Callable[[list[str]], CommandLineIdentity]
    """Reads name and uuid from argv. Raises nothing, even for invalid arguments."""

    sample_command_line: Callable[[Vm, str], list[str]]
    """Makes an argv that contains a VM's identity. The second argument is the host's machine name (uname -m)."""

    program_prefixes: tuple[str, ...] = ()
    """Every name that begins with one of these prefixes is a name of its program."""

    subcommands: frozenset[tuple[str, str]] = frozenset()
    """Pairs (program, first argument). The program belongs to this VMM only with this first argument."""

    only_vcpu_comm: str = ""
    """Comm of the vCPU's thread of a VM that has only one vCPU, if this comm has no index."""

    moves_vcpus: bool = False
    """Its vCPUs move between threads. So a thread without a vCPU looks like a vCPU in a long exit."""

    libvirt_driver: str = ""
    """Name of its libvirt driver in cgroup paths; "" if libvirt has no driver for it."""

    has_typical_options: Callable[[list[str]], bool] = _no_typical_options
    """Returns True if the options in argv alone prove that they belong to this VMM, under any program name."""

    typical_options: tuple[str, ...] = ()
    """Arguments with which has_typical_options() returns True for a sample command line."""

    def is_program(self, program: str) -> bool:
        """Return whether the base name of a program is a name of this VMM's program."""
        return (
            program in self.programs
            or program in self._cut_comms
            or program.startswith(self.program_prefixes)
            or any(program.startswith(name) and _VERSION.fullmatch(program[len(name) :]) for name in self.programs)
        )

    def is_similar(self, program: str) -> bool:
        """Return whether a program's name begins with the label: a fork, a renamed build or a tool (qemu-img)."""
        return program.startswith(self.label) and not program[len(self.label) :][:1].isalpha()

    @cached_property
    def _cut_comms(self) -> frozenset[str]:
        """Comms of its program that the kernel cut, also if a wrapper has renamed the program."""
        names = {form.format(name) for name in self.programs for form in ("{}", *HIDDEN_NAMES)}
        return frozenset(name[:COMM_CHARACTERS] for name in names if len(name) > COMM_CHARACTERS)
