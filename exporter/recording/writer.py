"""Write a recording: events as they come, what was lost, at the end the VMs and the totals."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from exporter.model.vm import Vm
from exporter.recording import blocks, columns
from exporter.recording.blocks import Type
from exporter.recording.events import COUNTED, Kind, unpack

LOST = struct.Struct(f"<QQ{len(COUNTED)}Q")
"""From and to, CLOCK_MONOTONIC in ns, and how many of each kind."""


@dataclass(frozen=True)
class RecordingHeader:
    """Where a recording comes from; the formats are tracefs's text."""

    kernel: str
    machine: str
    exporter: str
    started: float | None
    """Unix time in seconds; None where it is not known."""
    clock_ns: int
    """CLOCK_MONOTONIC at that moment; the events' times are of that clock."""
    kvm_exit: str
    kvm_userspace_exit: str


@dataclass(frozen=True)
class ThreadEntry:
    """A vCPU thread: index in its VM, "" if unknown."""

    tid: int
    vm: int
    """Its VM's place in the list of VMs."""
    comm: str
    vcpu: str


class ExistsError(Exception):
    """The file to write exists, or cannot be replaced; one line for the operator."""


def check_target(path: Path, *, force: bool) -> None:
    """Raise ExistsError where create() would, before anything is loaded."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # create() says what is wrong with the folder
    if not stat.S_ISREG(mode):
        raise ExistsError(f"{path} exists and is not a file: choose another name")
    if not force:
        raise ExistsError(f"{path} exists: choose another name, or overwrite it with --force")


def create(path: Path, *, force: bool) -> BinaryIO:
    """Create the file, readable by its owner only; follows no symbolic link. Raises ExistsError, OSError."""
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
    """Remove what create() made and nothing whole came of, unless the name is another file's by now."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(file.fileno()), path.lstat()):
            path.unlink()


class Writer:
    """One recording. Every method raises OSError when the file cannot be written."""

    def __init__(self, out: BinaryIO, header: RecordingHeader) -> None:
        self._out = out
        self._good = 0
        """Bytes up to the end of the last whole block."""
        self.counts: Counter[Kind] = Counter()
        self.lost: Counter[Kind] = Counter()
        self.first_ns = self.last_ns = 0
        self._threads = 0
        self._write(blocks.start() + blocks.pack(Type.HEADER, _json(asdict(header))))

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._good

    def events(self, table: Sequence[bytes], numbers: Sequence[int], times: Sequence[int]) -> None:
        """Write a block: event i is table[numbers[i]] at times[i] ns. At most blocks.MAX_EVENTS of them."""
        if not times:
            return
        self._write(blocks.pack(Type.EVENTS, columns.pack(table, numbers, times), len(times)))
        kinds = [unpack(what).kind for what in table]
        for number, count in Counter(numbers).items():
            self.counts[kinds[number]] += count
        first = min(times)
        self.first_ns = min(self.first_ns, first) if self.first_ns else first
        self.last_ns = max(self.last_ns, *times)

    def losses(self, from_ns: int, to_ns: int, lost: Mapping[Kind, int]) -> None:
        """Write that events of this time were lost."""
        self._write(blocks.pack(Type.LOST, LOST.pack(from_ns, to_ns, *(lost.get(kind, 0) for kind in COUNTED))))
        self.lost.update(lost)

    def close(self, vms: Iterable[Vm], threads: Sequence[ThreadEntry], ended: str) -> None:
        """Write the VMs, all threads in the order in which they were announced, the totals, and why it ended."""
        listed = {"vms": [asdict(vm) for vm in vms], "threads": [asdict(thread) for thread in threads]}
        totals = {
            "events": {kind.name.lower(): self.counts[kind] for kind in COUNTED},
            "lost": {kind.name.lower(): self.lost[kind] for kind in COUNTED},
            "threads": len(threads),
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "ended": ended,
        }
        self._write(blocks.pack(Type.VMS, _json(listed)) + blocks.pack(Type.END, _json(totals)))

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._out.write(left) :]
        except OSError:
            # Back to whole blocks, so that it can still be closed. A pipe cannot; its reader finds it cut off.
            with contextlib.suppress(OSError):
                self._out.truncate(self._good)
                self._out.seek(self._good)
            raise
        self._good += len(data)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
