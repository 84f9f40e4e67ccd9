"""Options in the style of GNU, and names of control sockets, for the VMMs that use them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

#: File and folder names that many VMs on a host share: they are not the name of a VM.
_SHARED_STEMS = frozenset({"", "api", "control", "socket", "vm", "vmm"})
_SHARED_FOLDERS = frozenset({"", "root", "run", "shm", "socket", "sockets", "tmp", "var"})
_SOCKET_SUFFIX = re.compile(r"(?:\.sock|\.socket|-socket)")


def option(argv: list[str], *names: str, free_text: frozenset[str] = frozenset()) -> str:
    """Value of `--name value` or `--name=value`, the last one given; "" when there is none.

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
    """A VM's name from its control socket, /run/x/NAME.sock; "" if there is none.

    It is the folder's name if the sockets of many VMs have the same file name. Kata Containers has
    /run/vc/vm/ID/clh-api.sock; libvirt <folder>/NAME-socket. `path=` before the path is optional.
    `shared`: file names, without their suffix, that many VMs of this VMM have.
    """
    path = PurePosixPath(value[len("path=") :] if value.startswith("path=") else value)
    suffix = _SOCKET_SUFFIX.search(path.name)
    if suffix is None or suffix.end() != len(path.name):
        return ""
    stem = path.name[: suffix.start()]
    if stem not in _SHARED_STEMS | shared:
        return stem
    return path.parent.name if path.parent.name not in _SHARED_FOLDERS else ""
