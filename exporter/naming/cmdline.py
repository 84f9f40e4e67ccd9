"""Command lines of virtual machine monitors: which one it is, and what its VM is called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from exporter.naming import qemu
from exporter.naming.qemu import CommandLineIdentity

#: Options that are followed by free text, which may well look like an option: the guest kernel's command
#: line.
_FREE_TEXT = frozenset({"-p", "--params", "--cmdline", "--boot-args"})
#: File and folder names that many VMs on a host share, hence no names of VMs.
_SHARED_STEMS = frozenset(
    {
        "",
        "api",
        "ch",
        "ch-api",
        "clh",
        "clh-api",
        "cloud-hypervisor",
        "control",
        "crosvm",
        "socket",
        "vm",
        "vmm",
    }
)
_SHARED_FOLDERS = frozenset({"", "root", "run", "shm", "socket", "sockets", "tmp", "var"})
_SOCKET_SUFFIX = re.compile(r"(?:\.sock|\.socket|-socket)")


def split(raw: bytes) -> list[str]:
    """argv from the bytes of /proc/PID/cmdline: NUL-terminated, in any encoding or none.

    What follows the last NUL was cut off by the reader's limit and is dropped, except where there is no NUL
    at all: a process may overwrite its title.
    """
    if b"\0" not in raw:
        return [raw.decode(errors="replace")] if raw else []
    return [argument.decode(errors="replace") for argument in raw.split(b"\0")[:-1]]


def recognise(argv: list[str], programs: Iterable[str]) -> str:
    """The VMM: qemu, firecracker, cloud-hypervisor, crosvm or kvmtool; "" when it is none of them.

    `programs` are the base names the program is known by, the most telling first. A QEMU under another name
    is known by its options.
    """
    for program in programs:
        if program in {"lkvm", "lkvm-static", "kvmtool"} or (program == "kvm" and argv[1:2] == ["run"]):
            return "kvmtool"
        if program.startswith("qemu") or program in {"kvm", "kvm-spice"}:
            return "qemu"
        for vmm in ("firecracker", "cloud-hypervisor", "crosvm"):
            if program.startswith(vmm):
                return vmm
    return "qemu" if qemu.looks_like_qemu(argv) else ""


def parse(vmm: str, argv: list[str]) -> CommandLineIdentity:
    """What the command line of a recognised VMM says of its VM."""
    if vmm == "qemu":
        return qemu.parse(argv)
    if vmm == "firecracker":
        # docs/jailer.md in firecracker: the jailer hands its own --id on.
        return CommandLineIdentity(_option(argv, "--id"))
    if vmm == "cloud-hypervisor":
        return CommandLineIdentity(_socket_name(_option(argv, "--api-socket")), _platform_uuid(argv))
    if vmm == "crosvm":
        return CommandLineIdentity(_option(argv, "--name") or _socket_name(_option(argv, "--socket", "-s")))
    if vmm == "kvmtool":
        # Of `lkvm run`; its -n is --network, only other subcommands have -n for --name (builtin-run.c).
        return CommandLineIdentity(_option(argv, "--name"))
    return CommandLineIdentity()


def base_name(path: str) -> str:
    """Last component of a program's path."""
    return path.rstrip("/").rpartition("/")[2]


def _option(argv: list[str], *names: str) -> str:
    """Value of `--name value` or `--name=value`, the last one given; "" when there is none."""
    found = ""
    arguments = iter(argv[1:])
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if argument in _FREE_TEXT:
            next(arguments, "")
        elif argument in names:
            found = next(arguments, "")
        elif equals and option in names:
            found = value
    return found


def _socket_name(value: str) -> str:
    """A VM's name from its control socket: /run/x/NAME.sock, or the folder's name where that is the VM's.

    Kata Containers has /run/vc/vm/ID/clh-api.sock; libvirt <folder>/NAME-socket. `path=` is optional.
    """
    path = PurePosixPath(value[len("path=") :] if value.startswith("path=") else value)
    suffix = _SOCKET_SUFFIX.search(path.name)
    if suffix is None or suffix.end() != len(path.name):
        return ""
    stem = path.name[: suffix.start()]
    if stem not in _SHARED_STEMS:
        return stem
    return path.parent.name if path.parent.name not in _SHARED_FOLDERS else ""


def _platform_uuid(argv: list[str]) -> str:
    """--platform num_pci_segments=1,uuid=..., as cloud-hypervisor takes it."""
    for item in _option(argv, "--platform").split(","):
        if item.startswith("uuid="):
            return item[len("uuid=") :]
    return ""
