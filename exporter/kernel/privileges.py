"""Drops the privileges of this process: it keeps one account, and only the capability that the kernel requires.

The loader (loader.py) needs privileges, and does not use the network. The process that serves the network needs no
privileges. It drops them permanently as soon as the loader was started. Each thread has its own credentials, so drop()
works only in a process with one thread. The numbers are those of include/uapi/linux/{capability,prctl}.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import struct
import threading
from collections.abc import Collection
from typing import NamedTuple

from exporter.kernel import syscall
from exporter.kernel.libc import checked, libc

CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN, CAP_BPF = 6, 7, 21, 39
_NAMES = {CAP_SYS_ADMIN: "CAP_SYS_ADMIN", CAP_BPF: "CAP_BPF"}

_PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 8, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522


class Account(NamedTuple):
    """An account that this process can run as."""

    name: str
    uid: int
    gid: int


def account(name: str) -> Account | None:
    """Return the account of this name; None if it does not exist."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def account_or_nobody(name: str) -> Account | None:
    """Return the account of this name, or nobody's; None if this host has neither."""
    return account(name) or account("nobody")


def unprivileged_account(name: str) -> Account | None:
    """Return the account of this name, or nobody's, if this process is root and can become it; else None."""
    if os.geteuid() != 0 or not may_change_user():
        return None
    return account_or_nobody(name)


def user() -> str:
    """Return the name of the user that this process runs as, or the user's number if the user has no name."""
    return name_of(os.geteuid())


def name_of(uid: int) -> str:
    """Return the name of a user, or the number if the user has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def may_change_user() -> bool:
    """Return True if this process has CAP_SETUID and CAP_SETGID. Root has both, but a container may take them away."""
    return all(_held() >> cap & 1 for cap in (CAP_SETUID, CAP_SETGID))


def drop(become: Account | None) -> list[str]:
    """Drop every privilege permanently, and first change the user if an account is given.

    Returns the names of the capabilities that this process keeps, because the kernel is older than Linux 5.19: see
    _needed(). Raises OSError. Raises RuntimeError in a process with several threads.
    """
    if threading.active_count() > 1:
        raise RuntimeError("privileges are dropped before the first thread is started")
    kept = _needed()
    _empty_bounding_set()
    if become:
        _prctl(_PR_SET_KEEPCAPS, 1)  # exec clears this flag, too: no later program has it
        os.setgroups(os.getgrouplist(become.name, become.gid))
        os.setresgid(become.gid, become.gid, become.gid)
        os.setresuid(become.uid, become.uid, become.uid)
        _prctl(_PR_SET_KEEPCAPS, 0)
    _set_capabilities(kept, kept)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return [_NAMES[cap] for cap in kept]


def _needed() -> list[int]:
    """Return the capability without which the kernel refuses bpf() on maps and programs of an earlier process.

    None is needed since Linux 5.19, commit c8644cd0efe7 ("bpf: refine kernel.unprivileged_bpf_disabled behaviour"), or
    if that sysctl is 0. So this function tries a bpf() call without effective capabilities.
    """
    held = _held()
    mine = [cap for cap in range(64) if held >> cap & 1]
    _set_capabilities(mine, [])
    refused = not syscall.permitted()
    _set_capabilities(mine, mine)
    # CAP_BPF exists since Linux 5.8, commit a17b53c4a4b5. Before, CAP_SYS_ADMIN included its rights.
    return [cap for cap in (CAP_BPF, CAP_SYS_ADMIN) if cap in mine][:1] if refused else []


def _held() -> int:
    """Return the permitted capabilities, as a mask."""
    header, data = _header(), ctypes.create_string_buffer(24)
    checked(libc.capget(header, data))
    low, high = struct.unpack_from("=4xI8xI", data)
    return int(low | high << 32)


def _set_capabilities(permitted: Collection[int], effective: Collection[int]) -> None:
    """Set the permitted and the effective capabilities, and clear the inheritable ones."""
    masks = [sum(1 << cap for cap in caps) for caps in (effective, permitted)]
    words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in (*masks, 0)]
    checked(libc.capset(_header(), struct.pack("=6I", *words)))


def _empty_bounding_set() -> None:
    """Clear the bounding set. Without CAP_SETPCAP this is not possible, and no_new_privs then has the same effect."""
    with contextlib.suppress(OSError):
        for cap in range(64):  # EINVAL after the last capability that the kernel knows
            _prctl(_PR_CAPBSET_DROP, cap)


def _header() -> bytes:
    return struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)


def _prctl(option: int, argument: int) -> None:
    checked(libc.prctl(option, *(ctypes.c_ulong(value) for value in (argument, 0, 0, 0))))
