"""Reads options in GNU style and names of control sockets, for the VMMs that use them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

#: Words for a socket or for a VM. A name that has no other word is not the name of one VM.
_COMMON_WORDS = frozenset({"api", "control", "ctl", "hypervisor", "microvm", "sock", "socket", "vm", "vmm"})
#: A folder in one of these folders belongs to a program or a user, and not to one VM (Filesystem Hierarchy Standard
#: 3.0). These folders and /tmp belong to nobody.
_SHARED_FOLDER = re.compile(
    r"/?|/tmp|/dev/shm|/root|/home/[^/]+|(?:/etc|/opt|/srv|/var/cache|/var/lib|(?:/var)?/run(?:/user/[0-9]+)?)(?:/[^/]+)?"
)
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


def socket_name(value: str, *, words: frozenset[str]) -> str:
    """Return a VM's name from the path of its control socket, /run/x/NAME.sock; "" if the path has no name.

    If the file name has only common words, the folder's name is the VM's name. Kata Containers uses
    /run/vc/vm/ID/clh-api.sock. libvirt uses <folder>/NAME-socket. The path may follow `path=`. `words` lists the names
    of the VMM itself: they are common words for its VMs.
    """
    path = PurePosixPath(value[len("path=") :] if value.startswith("path=") else value)
    suffix = _SOCKET_SUFFIX.search(path.name)
    if suffix is None or suffix.end() != len(path.name):
        return ""
    word = "(?:" + "|".join(map(re.escape, _COMMON_WORDS | words)) + ")"
    common = re.compile(rf"(?:{word}(?:[-_.]{word})*)?")
    stem, folder = path.name[: suffix.start()], path.parent
    if not common.fullmatch(stem):
        return stem
    if _SHARED_FOLDER.fullmatch(str(folder)) or common.fullmatch(folder.name):
        return ""
    return folder.name
