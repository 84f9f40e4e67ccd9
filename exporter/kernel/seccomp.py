"""Refuses system calls that the daemon never needs: a seccomp filter, which a process without privileges may install.

The filter is a classic BPF program (include/uapi/linux/{filter,seccomp,audit}.h). A call that it refuses fails with
EPERM.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

from exporter.kernel.libc import checked, libc

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
"""BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_JMP|BPF_JGE|BPF_K, BPF_RET|BPF_K"""
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
"""Offsets in struct seccomp_data. An argument has 64 bits; its low word comes first on little-endian machines."""
_X32 = 0x40000000
"""__X32_SYSCALL_BIT: x86 has a second set of numbers from here on."""

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}  # AUDIT_ARCH_*
_GENERIC = ("aarch64", "riscv64")

REFUSED = {
    "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "personality": (135, 92),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265),
    "unshare": (272, 97), "setns": (308, 268),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip
"""Number on x86_64 (arch/x86/entry/syscalls/syscall_64.tbl), and elsewhere (include/uapi/asm-generic/unistd.h)."""
_BPF, _IOCTL = (321, 280), (16, 29)

BPF_ALLOWED = (1, 2, 3, 4, 9, 15, 17, 21, 24, 25, 26, 27, 28, 29, 34)
"""Commands on descriptors that the daemon has: access to maps, information, and attaching and detaching of loaded
programs (enum bpf_cmd). Nothing can be loaded, made, pinned, or opened by its number."""
IOCTL_REFUSED = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX write to the input of a terminal."""


class _Instruction(NamedTuple):
    """struct sock_filter"""

    code: int
    if_true: int
    if_false: int
    value: int


def _one_of(values: Collection[int], then: int, otherwise: int) -> Iterator[_Instruction]:
    """Return `then` if the loaded word is one of the values, else `otherwise`."""
    for number, value in enumerate(values):
        yield _Instruction(_EQUAL, len(values) - number, 0, value)
    yield _Instruction(_RETURN, 0, 0, otherwise)
    yield _Instruction(_RETURN, 0, 0, then)


def _if_number(number: int, body: Collection[_Instruction]) -> Iterator[_Instruction]:
    yield _Instruction(_EQUAL, 0, len(body), number)
    yield from body


def _argument(offset: int, values: Collection[int], then: int, otherwise: int) -> list[_Instruction]:
    return [_Instruction(_LOAD, 0, 0, offset), *_one_of(values, then, otherwise)]


def program(machine: str) -> bytes:
    """Return the filter for a machine (`uname -m`). Raises KeyError for an unknown one."""
    architecture, column = _ARCHITECTURES[machine], int(machine in _GENERIC)
    refuse = _Instruction(_RETURN, 0, 0, _REFUSE)
    made = [
        _Instruction(_LOAD, 0, 0, _ARCHITECTURE),
        _Instruction(_EQUAL, 1, 0, architecture),
        refuse,  # a 32-bit call has other numbers
        _Instruction(_LOAD, 0, 0, _NUMBER),
        _Instruction(_AT_LEAST, 0, 1, _X32),
        refuse,
        *_if_number(_BPF[column], _argument(_FIRST_ARGUMENT, BPF_ALLOWED, _ALLOW, _REFUSE)),
        *_if_number(_IOCTL[column], _argument(_SECOND_ARGUMENT, IOCTL_REFUSED, _REFUSE, _ALLOW)),
        *_one_of([numbers[column] for numbers in REFUSED.values()], _REFUSE, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in made)


def install() -> None:
    """Install the filter for this thread and all that it starts. It cannot be removed.

    Needs no_new_privs. Raises OSError; ENOSYS on a machine that the filter is not made for.
    """
    try:
        code = program(platform.machine())
    except KeyError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    instructions = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions)))
    arguments = (ctypes.c_ulong(_MODE_FILTER), header, ctypes.c_ulong(0), ctypes.c_ulong(0))
    checked(libc.prctl(_PR_SET_SECCOMP, *arguments))
