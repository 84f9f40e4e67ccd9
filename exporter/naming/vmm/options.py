"""Reads options in GNU style and names of control sockets, for the VMMs that use them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

#: File and folder names that many VMs on a host share. They are never used as the name of a VM.
_SHARED_STEMS = frozenset({"", "api", "control", "socket", "vm", "vmm"})
_SHARED_FOLDERS = frozenset({"", "root", "run", "shm", "socket", "sockets", "tmp", "var"})
_SOCKET_SUFFIX = re.compile(r"(?:\.sock|\.socket|-socket)")


def option(argv: list[str], *names: str, free_text: frozenset[str] = frozenset()) -> str:
    """Return the value of the last `--name value` or `--name=value`; "" if the option is missing.

    `free_text`: options whose value is free text and may look like an option (the guest kernel's command line).
    """
    found = ""
    arguments = iter(argv[1:])
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument in free_text:
            next(arguments, "")
        elif argument in names:
            found = next(arguments, "")
        elif equals and name in names:
            found = value
    return found


def socket_name(value: str, *, shared: frozenset[str]) -> str:
    """Return a VM's name from the path of its control socket, /run/x/NAME.sock; "" if the path has no name.

    If many VMs have the same file name, the folder's name is the VM's name. Kata Containers uses
    /run/vc/vm/ID/clh-api.sock. libvirt uses <folder>/NAME-socket. The path may follow `path=`. `shared` lists the
    file names that this VMM uses for many VMs, without their suffix.
    """
    path = PurePosixPath(value[len("path=") :] if value.startswith("path=") else value)
    suffix = _SOCKET_SUFFIX.search(path.name)
    if suffix is None or suffix.end() != len(path.name):
        return ""
    stem = path.name[: suffix.start()]
    if stem not in _SHARED_STEMS | shared:
        return stem
    return path.parent.name if path.parent.name not in _SHARED_FOLDERS else ""
