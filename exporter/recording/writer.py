"""Writes a recording: first blocks of events and of losses, then the VMs and the totals."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from exporter.model.vm import Vm
from exporter.recording import blocks, columns
from exporter.recording.blocks import Type
from exporter.recording.events import COUNTED, Kind, unpack
from exporter.recording.totals import LOST, RecordingTotals


@dataclass(frozen=True)
class RecordingHeader:
    """The HEADER block: where and when the recording was made, and the format texts that tracefs has."""

    kernel: str
    machine: str
    exporter: str
    started: float | None
    """Unix time in seconds; None if it is not known."""
    clock_ns: int
    """CLOCK_MONOTONIC at `started`. The times of the events are on the same clock."""
    kvm_exit: str
    kvm_userspace_exit: str


@dataclass(frozen=True)
class ThreadEntry:
    """A vCPU thread in the VMS block."""

    tid: int
    vm: int
    """Index in the block's list of VMs."""
    comm: str
    vcpu: str
    """Index of the vCPU in its VM; "" if unknown."""


class ExistsError(Exception):
    """The file exists and must not be overwritten, or is no regular file. The message is one line for the operator."""


def check_target(path: Path, *, force: bool) -> None:
    """Check a path before the BPF program is loaded. Raises ExistsError if create() would raise it."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # if the directory is wrong, create() raises OSError
    if not stat.S_ISREG(mode):
        raise ExistsError(f"{path} exists and is not a file: choose another name")
    if not force:
        raise ExistsError(f"{path} exists: choose another name, or overwrite it with --force")


def create(path: Path, *, force: bool) -> BinaryIO:
    """Create the file without a buffer, readable by its owner only. A symbolic link is not followed.

    Raises ExistsError and OSError.
    """
    check_target(path, force=force)
    if force:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)
    except FileExistsError:
        raise ExistsError(f"{path} exists: choose another name, or overwrite it with --force") from None


def discard(file: BinaryIO, path: Path) -> None:
    """Remove the incomplete file that create() made, unless its name belongs to another file now."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(file.fileno()), path.lstat()):
            path.unlink()


class Writer:
    """Writes one recording. Every method raises OSError if the file cannot be written."""

    def __init__(self, out: BinaryIO, header: RecordingHeader) -> None:
        self._out = out
        self._good = 0
        """Bytes up to the end of the last complete block."""
        self.totals = RecordingTotals()
        self._write(blocks.start() + blocks.pack(Type.HEADER, _json(asdict(header))))

    @property
    def size(self) -> int:
        """Bytes of the blocks that were written."""
        return self._good

    def events(self, table: Sequence[bytes], numbers: Sequence[int], times: Sequence[int]) -> None:
        """Write a block of at most blocks.MAX_EVENTS events: event i is table[numbers[i]] at times[i] ns."""
        if not times:
            return
        self._write(blocks.pack(Type.EVENTS, columns.pack(table, numbers, times), len(times)))
        self.totals.add([unpack(what).kind for what in table], numbers, times)

    def losses(self, from_ns: int, to_ns: int, lost: Mapping[Kind, int]) -> None:
        """Write how many events of each kind were lost between two times on CLOCK_MONOTONIC."""
        self._write(blocks.pack(Type.LOST, LOST.pack(from_ns, to_ns, *(lost.get(kind, 0) for kind in COUNTED))))
        self.totals.lost.update(lost)

    def close(self, vms: Iterable[Vm], threads: Sequence[ThreadEntry], ended: str) -> None:
        """Write the VMs, the threads in the order of their announcements, the totals, and why the recording ended."""
        listed = {"vms": [asdict(vm) for vm in vms], "threads": [asdict(thread) for thread in threads]}
        events, lost = self.totals.by_name()
        totals = {
            "events": events,
            "lost": lost,
            "threads": len(threads),
            "first_ns": self.totals.first_ns,
            "last_ns": self.totals.last_ns,
            "ended": ended,
        }
        self._write(blocks.pack(Type.VMS, _json(listed)) + blocks.pack(Type.END, _json(totals)))

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._out.write(left) :]
        except OSError:
            # Remove the incomplete block, so that close() can still complete the file. A pipe cannot
            # be truncated: its reader gets a recording that is cut off.
            with contextlib.suppress(OSError):
                self._out.truncate(self._good)
                self._out.seek(self._good)
            raise
        self._good += len(data)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
