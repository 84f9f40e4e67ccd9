"""Reads a recording twice: first completely, so that only a complete file is replayed; then block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from exporter.common.json_values import loads
from exporter.kernel import program
from exporter.kernel.tracepoint import TracepointFormat, parse_format
from exporter.model.vm import Vcpu, Vm
from exporter.recording import blocks, columns
from exporter.recording.blocks import MAX_THREADS, Block, RecordingError, RecordingFile, Type
from exporter.recording.events import COUNTED, Event, Kind, encoder, unpack
from exporter.recording.totals import LOST, RecordingTotals

__all__ = ["DEFAULT", "EventRun", "RecordedThread", "Recording", "RecordingError", "read"]

DEFAULT = Path(__file__).parent / "recordings" / "aarch64-three-vms.kvmrec"

MAX_DISTINCT = 1 << 15
"""Largest number of distinct events that is counted. On real hosts each vCPU has about ten."""
FREE_WORK = 1 << 20
"""Number of events, plus the distinct ones of each block, that a recording may have whatever its size is.

Beyond this number, each of them takes at least one byte of the file: real ones take three. Without this limit, a small
file could keep its reader busy for minutes.
"""
_MAX_HEADER_VALUES = 1 << 16
"""Limit for the JSON of HEADER. Commas and brackets in the formats count, too: a format has about a thousand."""
_MAX_LISTED_VALUES = MAX_THREADS * 10
"""Limit for the JSON of VMS. A thread has five values, and a VM too."""
_LABEL_CHARACTERS = 128  # exporter/naming/identity.py cuts names to this length
_MAX_PID = 1 << 22
_MESSAGE_CHARACTERS = 300


@dataclass(frozen=True, eq=False)
class RecordedThread:
    """A vCPU thread from its announcement to its end, or to the end of the recording.

    If the same tid is announced again, it is another thread.
    """

    number: int
    """Place in the order of the announcements."""
    tgid: int
    tid: int
    comm: bytes


class EventRun(NamedTuple):
    """The events of one thread in one block, in order. Times are in ns."""

    thread: RecordedThread
    times: list[int]
    events: list[Event]


@dataclass(frozen=True)
class Recording:
    """A complete recording, without its events."""

    file: RecordingFile
    kernel: str
    machine: str
    kvm_exit: TracepointFormat
    kvm_userspace_exit: TracepointFormat
    vms: tuple[Vm, ...]
    vcpus: tuple[Vcpu, ...]
    """By the number of the thread."""
    events: Mapping[Kind, int]
    lost: Mapping[Kind, int]
    first_ns: int
    last_ns: int
    distinct: int
    """Number of distinct events, at most MAX_DISTINCT + 1."""

    @property
    def path(self) -> Path:
        """The path, for messages."""
        return self.file.path

    def runs(self) -> Iterator[list[EventRun]]:
        """Yield the events of each block, grouped by thread. Raises RecordingError."""
        reading = _Parsing()
        for block in blocks.read(self.file):
            if block.type == Type.EVENTS:
                yield reading.events(block)


def read(file: Path | RecordingFile) -> Recording:
    """Read and check all of a recording. Only one block at a time is in memory. Raises RecordingError."""
    if isinstance(file, Path):
        file = RecordingFile(file)
    reading = _Parsing()
    expected: tuple[Type, ...] = (Type.HEADER,)
    header: dict[str, Any] = {}
    vms: tuple[Vm, ...] = ()
    vcpus: tuple[Vcpu, ...] = ()
    for block in blocks.read(file):
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
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise RecordingError(f"{block.place} ({block.type.name}) is not valid: {why}") from error
    return Recording(
        file,
        **header,
        vms=vms,
        vcpus=vcpus,
        events=reading.totals.events,
        lost=reading.totals.lost,
        first_ns=reading.totals.first_ns,
        last_ns=reading.totals.last_ns,
        distinct=len(reading.distinct),
    )


def read_formats(file: RecordingFile) -> tuple[TracepointFormat, TracepointFormat]:
    """Read the formats of kvm_exit and kvm_userspace_exit, and nothing else. Raises RecordingError."""
    try:
        header = _header(next(blocks.read(file)).content)
    except (ValueError, KeyError, TypeError, program.LoadError) as error:
        raise RecordingError(f"{file.path} is not a recording: {error}") from error
    return header["kvm_exit"], header["kvm_userspace_exit"]


class _Parsing:
    """The state while the blocks are read in order."""

    def __init__(self) -> None:
        self.check: Callable[[Event], object] | None = None
        """Raises ValueError for an event that the recorded kernel cannot have sent; None: no check."""
        self.totals = RecordingTotals()
        self.distinct: set[bytes] = set()
        self._work = -FREE_WORK
        """Events and distinct events of all blocks, less the number that the size of the blocks allows."""
        self.threads: list[RecordedThread] = []
        """All announced threads, by their number."""
        self._live: dict[int, RecordedThread] = {}
        """By tid: the threads that were announced and have not ended."""

    def events(self, block: Block) -> list[EventRun]:
        """Read an EVENTS block. Raises RecordingError."""
        try:
            table, numbers, times = columns.unpack(block.content, block.entries)
            self._work += block.entries + len(table) - block.stored_bytes
            if self._work > 0:
                raise ValueError("the events take less than a byte each: no host sends such events")
            if len(self.distinct) <= MAX_DISTINCT:
                self.distinct.update(table[: MAX_DISTINCT + 1 - len(self.distinct)])
            events = [unpack(what) for what in table]
            counted = [event for event in events if event.kind != Kind.THREAD]
            if len(set(counted)) < len(counted):
                raise ValueError("the table has an event twice")
            for event in events if self.check else ():
                assert self.check
                self.check(event)
            runs = self._by_thread(events, numbers, times)
        except ValueError as error:
            raise RecordingError(f"{block.place} ({block.type.name}) is not valid: {error}") from error
        self.totals.add([event.kind for event in events], numbers, times)
        return runs

    def losses(self, content: bytes) -> None:
        """Read a LOST block. Raises ValueError."""
        if len(content) != LOST.size:
            raise ValueError(f"{len(content)} bytes instead of {LOST.size}")
        self.totals.lost.update(dict(zip(COUNTED, LOST.unpack(content)[2:])))

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
                thread = self._live.get(tid)
                if thread is None or thread.tgid != event.tgid:
                    raise ValueError(f"an event of thread {tid} of process {event.tgid}, which was not announced")
                run = current[tid] = runs[thread] = EventRun(thread, [], [])
            run.times.append(ns)
            run.events.append(event)
            if event.kind == Kind.THREAD_END:
                del self._live[tid], current[tid]
        return list(runs.values())

    def _announce(self, event: Event) -> None:
        if len(self.threads) == MAX_THREADS:
            raise ValueError(f"more than {MAX_THREADS} threads")
        thread = RecordedThread(len(self.threads), event.tgid, event.tid, event.comm)
        self.threads.append(thread)
        self._live[event.tid] = thread


def _header(content: bytes) -> dict[str, Any]:
    members = loads(content, _MAX_HEADER_VALUES)
    formats = {name: parse_format(_text(members[name], 1 << 20)) for name in ("kvm_exit", "kvm_userspace_exit")}
    program.isa_of(formats["kvm_exit"])  # raises LoadError for the layout of an unknown architecture
    return {"kernel": _text(members["kernel"]), "machine": _text(members["machine"]), **formats}


def _identities(content: bytes, threads: Sequence[RecordedThread]) -> tuple[tuple[Vm, ...], tuple[Vcpu, ...]]:
    members = loads(content, _MAX_LISTED_VALUES)
    if len(members["vms"]) > MAX_THREADS:
        raise ValueError(f"more than {MAX_THREADS} VMs")
    vms = tuple(
        Vm(_number(vm["pid"], _MAX_PID), _text(vm["name"]), _text(vm["uuid"]), _text(vm["vmm"]))
        for vm in members["vms"]
    )
    listed = [(vms[_number(each["vm"], len(vms) - 1)].pid, each["tid"]) for each in members["threads"]]
    if listed != [(thread.tgid, thread.tid) for thread in threads]:
        raise ValueError("its threads are not those of the events")
    return vms, tuple(Vcpu(vms[each["vm"]], _text(each["vcpu"])) for each in members["threads"])


def _check_totals(content: bytes, reading: _Parsing) -> None:
    members = loads(content, 100)
    for name, found in zip(("events", "lost"), reading.totals.by_name()):
        if members[name] != found:
            raise ValueError(f"{name} are {members[name]}, the blocks have {found}"[:_MESSAGE_CHARACTERS])
    _text(members["ended"])


def _text(value: object, limit: int = _LABEL_CHARACTERS) -> str:
    """Check that the value can be a label and an argument of a program. Raises ValueError and TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {type(value).__name__}")
    if len(value) > limit or "\0" in value:
        raise ValueError(f"text of {len(value)} characters (limit {limit}, no NUL)")
    value.encode()  # raises UnicodeEncodeError, a ValueError, for half a surrogate pair
    return value


def _number(value: object, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError(f"expected a number from 0 to {limit}, found {str(value)[:20]}")
    return value
