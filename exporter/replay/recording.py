"""A recording: an ftrace text of KVM events, the VMs it was taken from, and their kernel's tracepoint formats.

A folder with
  trace.txt.gz               /sys/kernel/tracing/trace with record-tgid set, gzipped
  vms.txt                    per VM its command line, then `TGID TID COMM` of each thread
  kvm_exit.format, kvm_userspace_exit.format
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from exporter.reasons import TracepointFormat, parse_format

DEFAULT = Path(__file__).parent / "recordings" / "aarch64-three-vms"

_LINE = re.compile(
    r"\s*(?P<comm>.{1,16})-(?P<tid>\d+)\s+(?:\(\s*(?P<tgid>\d+)\)\s+)?\[\d+\]\s+\S+\s+"
    r"(?P<seconds>\d+)\.(?P<micros>\d{6}): (?P<event>kvm_exit|kvm_entry|kvm_userspace_exit): (?P<text>.*)"
)
_ARM64_EXIT = re.compile(r"(\w+): HSR_EC: 0x([0-9a-f]+) ")
_X86_EXIT = re.compile(r"(?:vcpu \d+ )?reason (.+?) rip ")
_USERSPACE_EXIT = re.compile(r"reason (\S+) \((\d+)\)")
_ISA_VMX, _ISA_SVM = 1, 2


class RecordingError(Exception):
    """The folder is not a recording; one line says which file and line, and why."""


class Event(NamedTuple):
    """One event: time since the recording's first, program to run, and its context but for the time."""

    ns: int
    program: str
    context: bytes


class RecordedVm(NamedTuple):
    """A VM's process: its command line, and the comm of each vCPU thread by recorded tid."""

    argv: tuple[str, ...]
    comms: Mapping[int, str]


@dataclass(frozen=True)
class Recording:
    """Whose events they are; the events themselves are read by who replays them."""

    folder: Path
    kvm_exit: TracepointFormat
    kvm_userspace_exit: TracepointFormat
    vms: tuple[RecordedVm, ...]


@dataclass(frozen=True)
class Events:
    """A VM's events by recorded tid, and how long the whole recording is."""

    by_tid: Mapping[int, tuple[Event, ...]]
    duration_ns: int


def read(folder: Path) -> Recording:
    """Read all of a recording but its events. Raises RecordingError."""
    try:
        return Recording(
            folder,
            parse_format((folder / "kvm_exit.format").read_text()),
            parse_format((folder / "kvm_userspace_exit.format").read_text()),
            tuple(_read_vms(folder / "vms.txt")),
        )
    except (OSError, ValueError) as error:
        raise RecordingError(f"{folder} is not a recording: {error}") from error


def read_events(recording: Recording, vm: RecordedVm) -> Events:
    """Read one VM's events. Raises RecordingError."""
    path = recording.folder / "trace.txt.gz"
    threads = {tid for each in recording.vms for tid in each.comms}
    events: dict[int, list[Event]] = {tid: [] for tid in vm.comms}
    first = last = -1
    encode = _Encoder(recording.kvm_exit)
    try:
        with gzip.open(path, "rt", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                match = _LINE.fullmatch(line.rstrip("\n"))
                if not match or int(match["tid"]) not in threads:
                    continue
                last = int(match["seconds"]) * 10**9 + int(match["micros"]) * 1000
                first = last if first < 0 else first
                if int(match["tid"]) not in events:
                    continue
                try:
                    context = encode.context(match["event"], match["text"])
                except (KeyError, ValueError) as error:
                    raise RecordingError(f"{path}:{number}: {error}") from error
                events[int(match["tid"])].append(Event(last - first, match["event"], context))
    except (OSError, EOFError, zlib.error) as error:
        raise RecordingError(f"{path}: {error}") from error
    if last < 0:
        raise RecordingError(f"{path} has no KVM event of a thread in vms.txt")
    return Events({tid: tuple(found) for tid, found in events.items() if found}, last - first)


def _read_vms(path: Path) -> list[RecordedVm]:
    """Parse vms.txt: a line that begins with a number is a thread of the VM above it."""
    vms: list[RecordedVm] = []
    comms: dict[int, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        thread = re.fullmatch(r"\d+ (\d+) (.+)", line)
        if thread and vms:
            comms[int(thread[1])] = thread[2]
        elif line.strip() and not thread:
            comms = {}
            vms.append(RecordedVm(tuple(line.split()), comms))
        elif line.strip():
            raise ValueError(f"{path.name}:{number}: a thread before any VM")
    return vms


class _Encoder:
    """The text of an event back into the program's context, as the tracepoint's format says."""

    def __init__(self, kvm_exit: TracepointFormat) -> None:
        self._fields = kvm_exit.fields
        symbols = {key: {name: code for code, name in table.items()} for key, table in kvm_exit.symbols.items()}
        self._ret = symbols.get("REC->ret", {})
        self._reasons = {_ISA_SVM: symbols.get("REC->exit_reason", {})}
        self._reasons[_ISA_VMX] = symbols.get("REC->exit_reason & 0xffff", {})

    def context(self, event: str, text: str) -> bytes:
        """Return the eleven u64 before the time stamp. KeyError, ValueError where the text is not understood."""
        if event == "kvm_entry":
            return bytes(88)
        if event == "kvm_userspace_exit":
            reason, number = _matched(_USERSPACE_EXIT, text)
            failed = reason in ("restart", "error")
            values = (0, -int(number)) if failed else (int(number), 0)
            return struct.pack("=qq72x", *values)
        if "ret" in self._fields:
            name, trap = _matched(_ARM64_EXIT, text)
            return struct.pack("=QQ72x", self._ret[name], int(trap, 16))
        (name,) = _matched(_X86_EXIT, text)
        isa = _ISA_SVM if name in self._reasons[_ISA_SVM] else _ISA_VMX
        record = bytearray(88)
        for field, value in (("isa", isa), ("exit_reason", self._reasons[isa][name])):
            struct.pack_into("=I", record, self._fields[field].offset, value & 0xFFFFFFFF)
        return bytes(record)


def _matched(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    match = pattern.match(text)
    if not match:
        raise ValueError(f"not understood: {text[:80]}")
    return match.groups()


def passes(events: tuple[Event, ...], duration_ns: int, endless: bool) -> Iterator[Event]:
    """Yield a thread's events, again and again if `endless`, each pass `duration_ns` later.

    A recording is a cut-out: at its end a vCPU may be out of the guest, at its start it is in an unknown state. So that
    no pass invents an interval, or an event that does not match, a pass ends with an entry where one is
    missing, and every pass but the first starts with the first exit.
    """
    start, offset = 0, 0
    exits = [number for number, event in enumerate(events) if event.program == "kvm_exit"]
    while True:
        for event in events[start:]:
            yield event._replace(ns=event.ns + offset)
        if not endless or not exits:
            return
        offset += duration_ns
        if events[-1].program != "kvm_entry":
            yield Event(offset, "kvm_entry", bytes(88))
        start = exits[0]
