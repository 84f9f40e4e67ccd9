"""Compile drive.c once, and run it with the descriptors of loaded programs."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from exporter.kernel import syscall

DRIVEN = ("kvm_exit", "kvm_entry", "kvm_userspace_exit")

# include/uapi/linux/bpf.h: commands, and offsetof(struct bpf_prog_info, name). The name has at most 15 characters.
_PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 13, 15
_NAME_OFFSET, _NAME_SIZE = 64, 16


class Sent(NamedTuple):
    """The counts that drive.c prints. `reused`: thread IDs used by a second thread. `killed`: VMs ended by SIGKILL."""

    threads: int
    exits: int
    entries: int
    userspace: int
    failed: int
    reused: int
    killed: int
    seconds: float

    def plus(self, other: Sent) -> Sent:
        return Sent._make(mine + theirs for mine, theirs in zip(self, other))


NOTHING = Sent(0, 0, 0, 0, 0, 0, 0, 0.0)


@functools.lru_cache(maxsize=1)
def _binary() -> str:
    folder = tempfile.TemporaryDirectory()
    path = f"{folder.name}/drive"
    source = Path(__file__).with_name("drive.c")
    subprocess.run(
        ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", path, source], check=True
    )
    _binary.folder = folder  # type: ignore[attr-defined]  # removed with the interpreter
    return path


def have_compiler() -> bool:
    return shutil.which("gcc") is not None


def begin(programs: Mapping[str, int], **keys: int) -> subprocess.Popen[str]:
    """Start drive.c with these keys. finish() waits until drive.c ends."""
    fds = [programs[name] for name in DRIVEN]
    words = [*map(str, fds), *(f"{key}={value}" for key, value in keys.items())]
    return subprocess.Popen([_binary(), *words], pass_fds=fds, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout: float = 600) -> Sent:
    """Wait until drive.c and all of its threads have ended. Return its counts."""
    said, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, process.returncode
    sent = Sent(**json.loads(said))
    assert sent.failed == 0
    return sent


def drive(programs: Mapping[str, int], **keys: int) -> Sent:
    return finish(begin(programs, **keys))


def programs_of(pid: int) -> dict[str, int]:
    """Open new descriptors of the driven programs that process `pid` has loaded; return them by name."""
    found: dict[str, int] = {}
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            match = re.search(r"^prog_id:\t(\d+)$", path.read_text(), re.M)
            link = os.readlink(f"/proc/{pid}/fd/{path.name}")
        except FileNotFoundError:
            continue
        if not match or "bpf-prog" not in link:
            continue
        fd = syscall._bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", int(match[1]), 0, 0))
        name = _name(fd)
        for driven in DRIVEN:
            if name == driven[: _NAME_SIZE - 1] and driven not in found:
                found[driven] = fd
                break
        else:
            os.close(fd)
    assert found.keys() == set(DRIVEN), found
    return found


def close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _name(program: int) -> str:
    info = ctypes.create_string_buffer(_NAME_OFFSET + _NAME_SIZE)
    syscall._bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)))
    return info.raw[_NAME_OFFSET:].split(b"\0", 1)[0].decode()
