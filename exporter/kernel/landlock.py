"""Lets this process read a few folders and write to none: a Landlock ruleset (include/uapi/linux/landlock.h).

A process without privileges may restrict itself. Files that are open already stay usable.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from exporter.kernel.libc import checked, libc

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same numbers on all machines
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1

_READ_FILE, _READ_DIR, _REMOVE_FILE = 1 << 2, 1 << 3, 1 << 5
_ACCESSES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All accesses to files that a version knows, from that version on: the first has execute to make_sym, then come
refer, truncate and ioctl_dev."""
_BIND_AND_CONNECT = 3
"""TCP, from version 4 on."""


def _call(number: int, *arguments: object) -> int:
    return checked(libc.syscall(ctypes.c_long(number), *arguments))


def restrict(read: Iterable[Path], remove: Iterable[Path] = ()) -> int:
    """Restrict this thread and all that it starts; returns the version of Landlock.

    `read`: files and folders that can be read. `remove`: folders whose entries can be removed. Paths that do not exist
    are left out. No TCP connection can be made, and no TCP port can be bound. Needs no_new_privs. Raises OSError, for
    example ENOSYS or EOPNOTSUPP if the kernel has no Landlock.
    """
    version = _call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    accesses = max(value for since, value in _ACCESSES.items() if since <= version)
    attributes = struct.pack("=QQ", accesses, _BIND_AND_CONNECT)[: 16 if version >= 4 else 8]
    ruleset = _call(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for path in read:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in remove:
            _allow(ruleset, path, _REMOVE_FILE)
        _call(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: Path, accesses: int) -> None:
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            allowed = accesses if path.is_dir() else accesses & ~_READ_DIR
            rule = struct.pack("=Qi", allowed, fd)
            _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
        finally:
            os.close(fd)
