"""The check of the raw tracepoint kvm_exit against the record of the classic one, at the first exits on this host.

On x86, the program reads the reason of an exit at offsets from BTF, or from arguments whose order the kernel's version
tells. Two programs of front_x86.bpf.c run at the same exits and compare what they read. If no VM runs while the
program is loaded, the check goes on in the daemon. It needs no privilege.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from exporter.kernel import syscall

RAW, RECORD = "kvm_exit_check", "kvm_exit_record"
"""The program on the raw tracepoint, and the one on the classic tracepoint."""
MAP = "exit_check"
DESCRIPTORS = (MAP, RAW, RECORD)
"""The names of the descriptors of a check."""

_ENOUGH = 8
"""Number of exits that decide. One program can miss an exit; then two different exits may be compared."""
_COUNTS = struct.Struct("=4Q")
_SECONDS = 1.0
_POLL_SECONDS = 0.01


class Verdict(Enum):
    """The result of the check."""

    OPEN = auto()
    """Too few exits were compared."""
    AGREES = auto()
    DIFFERS = auto()


@dataclass(frozen=True)
class Compared:
    """struct exit_check of front_x86.bpf.c."""

    agreed: int
    differed: int
    raw_code: int
    record_code: int

    @property
    def verdict(self) -> Verdict:
        """The result so far."""
        if self.differed >= _ENOUGH and self.differed > self.agreed:
            return Verdict.DIFFERS
        return Verdict.AGREES if self.agreed >= _ENOUGH and self.agreed > self.differed else Verdict.OPEN

    @property
    def difference(self) -> str:
        """One sentence about the last exit that differed."""
        return f"an exit was read as 0x{self.raw_code:x}, and its record has 0x{self.record_code:x}"


class ExitCheck:
    """The descriptors of a check that is not finished: the map, and both attachments by program."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        self.descriptors = dict(descriptors)

    def read(self) -> Compared:
        """Return what was compared so far. Raises OSError if there is no memory to map it."""
        with mmap.mmap(self.descriptors[MAP], mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
            return Compared(*_COUNTS.unpack_from(memory))

    def close(self) -> None:
        """Detach both programs, and close the map."""
        for fd in self.descriptors.values():
            os.close(fd)
        self.descriptors = {}

    def __bool__(self) -> bool:
        return bool(self.descriptors)


def begin(compared: int, raw: int, record: int, event: int) -> ExitCheck:
    """Attach the programs `raw` and `record`, which write to the map `compared`; `event` is the id of kvm_exit.

    The check owns the descriptor of the map. Raises OSError.
    """
    check = ExitCheck({MAP: compared})
    try:
        check.descriptors[RAW] = syscall.attach_raw(raw, "kvm_exit")
        check.descriptors[RECORD] = syscall.attach_classic(record, event)
    except BaseException:
        check.close()
        raise
    return check


def finish(check: ExitCheck) -> str:
    """Wait at most a second for exits. Returns the difference, or "". Raises OSError.

    Afterwards the check is closed, except if too few exits came.
    """
    deadline = time.monotonic() + _SECONDS
    while (compared := check.read()).verdict is Verdict.OPEN:
        if time.monotonic() > deadline:
            return ""
        time.sleep(_POLL_SECONDS)
    check.close()
    return compared.difference if compared.verdict is Verdict.DIFFERS else ""
