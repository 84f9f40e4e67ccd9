"""Read a recording: first all of it, so that nothing is replayed of a file that is not whole; then block by block."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from exporter.kernel import program
from exporter.kernel.tracepoint import TracepointFormat, parse_format
from exporter.model.vm import Vcpu, Vm
from exporter.recording import blocks, columns
from exporter.recording.blocks import Block, RecordingError, Type
from exporter.recording.events import COUNTED, Event, Kind, encoder, unpack
from exporter.recording.writer import LOST

__all__ = ["DEFAULT", "EventRun", "RecordedThread", "Recording", "RecordingError", "read"]

DEFAULT = Path(__file__).parent / "recordings" / "aarch64-three-vms.kvmrec"

MAX_THREADS = 1 << 16
"""Of a recording, over all its time."""

_LABEL_CHARACTERS = 128  # exporter/naming/identity.py cuts there
_MAX_PID = 1 << 22
_MESSAGE_CHARACTERS = 300


@dataclass(frozen=True, eq=False)
class RecordedThread:
    """A vCPU thread, from its announcement to its end or the recording's. The same tid later is another thread."""

    number: int
    """In the order of announcement."""
    tgid: int
    tid: int
    comm: bytes


class EventRun(NamedTuple):
    """A thread's events in one block, in order."""

    thread: RecordedThread
    times: list[int]
    events: list[Event]


@dataclass(frozen=True)
class Recording:
    """A whole recording but for its events."""

    path: Path
    kernel: str
    machine: str
    kvm_exit: TracepointFormat
    kvm_userspace_exit: TracepointFormat
    vms: tuple[Vm, ...]
    vcpus: tuple[Vcpu, ...]
    """By number of the thread."""
    events: Mapping[Kind, int]
    lost: Mapping[Kind, int]
    first_ns: int
    last_ns: int

    def runs(self) -> Iterator[list[EventRun]]:
        """Read the events, block by block. Raises RecordingError."""
        reading = _Parsing()
        for block in blocks.read(self.path):
            if block.type == Type.EVENTS:
                yield reading.events(block)


def read(path: Path) -> Recording:
    """Read and check all of a recording; in memory is one block at a time. Raises RecordingError."""
    reading = _Parsing()
    expected: tuple[Type, ...] = (Type.HEADER,)
    header: dict[str, Any] = {}
    vms: tuple[Vm, ...] = ()
    vcpus: tuple[Vcpu, ...] = ()
    for block in blocks.read(path):
        if block.type not in expected:
            raise RecordingError(f"{block.place} is of type {block.type.name}, expected {expected[0].name}")
        expected = (Type.END,) if block.type == Type.VMS else (Type.VMS, Type.EVENTS, Type.LOST)
        try:
            if block.type == Type.HEADER:
                header = _header(block.content)
                reading.check = encoder(header["kvm_exit"])
            elif block.type == Type.EVENTS:
                reading.events(block)
            elif block.type == Type.LOST:
                reading.losses(block.content)
            elif block.type == Type.VMS:
                vms, vcpus = _identities(block.content, reading.threads)
            else:
                _check_totals(block.content, reading)
        except (ValueError, KeyError, TypeError, RecursionError, program.LoadError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise RecordingError(f"{block.place} ({block.type.name}) is not valid: {said}") from error
    return Recording(
        path,
        **header,
        vms=vms,
        vcpus=vcpus,
        events=reading.counts,
        lost=reading.lost,
        first_ns=reading.first_ns,
        last_ns=reading.last_ns,
    )


class _Parsing:
    """What is known so far of a recording that is read in order."""

    def __init__(self) -> None:
        self.check: Callable[[Event], object] | None = None
        self.counts: Counter[Kind] = Counter()
        self.lost: Counter[Kind] = Counter()
        self.threads: list[tuple[int, int]] = []
        """TGID and TID of each that was announced."""
        self.first_ns = self.last_ns = 0
        self._current: dict[int, RecordedThread] = {}

    def events(self, block: Block) -> list[EventRun]:
        """Take in an EVENTS block. Raises RecordingError."""
        try:
            table, numbers, times = columns.unpack(block.content, block.entries)
            events = [unpack(what) for what in table]
            for event in events if self.check else ():
                assert self.check
                self.check(event)
            runs = self._by_thread(events, numbers, times)
        except ValueError as error:
            raise RecordingError(f"{block.place} ({block.type.name}) is not valid: {error}") from error
        for number, count in Counter(numbers).items():
            self.counts[events[number].kind] += count
        self.first_ns = min(self.first_ns, *times) if self.first_ns else min(times)
        self.last_ns = max(self.last_ns, *times)
        return runs

    def losses(self, content: bytes) -> None:
        """Take in a LOST block. Raises ValueError."""
        if len(content) != LOST.size:
            raise ValueError(f"{len(content)} bytes instead of {LOST.size}")
        self.lost.update(dict(zip(COUNTED, LOST.unpack(content)[2:])))

    def _by_thread(self, events: list[Event], numbers: Iterable[int], times: list[int]) -> list[EventRun]:
        runs: dict[RecordedThread, EventRun] = {}
        current: dict[int, EventRun] = {}
        for ns, number in zip(times, numbers):
            event = events[number]
            tid = event.tid
            if event.kind == Kind.THREAD:
                self._announce(event)
                current.pop(tid, None)
                continue
            run = current.get(tid)
            if run is None:
                thread = self._current.get(tid)
                if thread is None or thread.tgid != event.tgid:
                    raise ValueError(f"an event of thread {tid} of process {event.tgid}, which was not announced")
                run = current[tid] = runs[thread] = EventRun(thread, [], [])
            run.times.append(ns)
            run.events.append(event)
            if event.kind == Kind.THREAD_END:
                del self._current[tid], current[tid]
        return list(runs.values())

    def _announce(self, event: Event) -> None:
        if len(self.threads) == MAX_THREADS:
            raise ValueError(f"more than {MAX_THREADS} threads")
        self._current[event.tid] = RecordedThread(len(self.threads), event.tgid, event.tid, event.comm)
        self.threads.append((event.tgid, event.tid))


def _header(content: bytes) -> dict[str, Any]:
    said = json.loads(content)
    formats = {name: parse_format(_text(said[name], 1 << 20)) for name in ("kvm_exit", "kvm_userspace_exit")}
    program.front_of(formats["kvm_exit"])  # raises for neither architecture's
    return {"kernel": _text(said["kernel"]), "machine": _text(said["machine"]), **formats}


def _identities(content: bytes, threads: list[tuple[int, int]]) -> tuple[tuple[Vm, ...], tuple[Vcpu, ...]]:
    said = json.loads(content)
    vms = tuple(
        Vm(_number(vm["pid"], _MAX_PID), _text(vm["name"]), _text(vm["uuid"]), _text(vm["vmm"])) for vm in said["vms"]
    )
    if [(vms[_number(each["vm"], len(vms) - 1)].pid, each["tid"]) for each in said["threads"]] != threads:
        raise ValueError("its threads are not those of the events")
    return vms, tuple(Vcpu(vms[each["vm"]], _text(each["vcpu"])) for each in said["threads"])


def _check_totals(content: bytes, reading: _Parsing) -> None:
    said = json.loads(content)
    for name, counts in (("events", reading.counts), ("lost", reading.lost)):
        found = {kind.name.lower(): counts[kind] for kind in COUNTED}
        if said[name] != found:
            raise ValueError(f"{name} are {said[name]}, the blocks have {found}"[:_MESSAGE_CHARACTERS])
    _text(said["ended"])


def _text(value: object, limit: int = _LABEL_CHARACTERS) -> str:
    """Return a string that can be a label and an argument. Raises ValueError, TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text is due")
    if len(value) > limit or "\0" in value:
        raise ValueError(f"a text of {len(value)} characters, or with a NUL in it")
    value.encode()  # UnicodeEncodeError is a ValueError: half a surrogate pair
    return value


def _number(value: object, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError(f"{str(value)[:20]} where a number from 0 to {limit} is due")
    return value
