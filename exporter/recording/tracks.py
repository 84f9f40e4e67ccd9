"""What each thread of a VM did, kept in memory so that it can be played again and again."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.recording.events import PROGRAM_OF_KIND, Event, Kind, encoder
from exporter.recording.recording import RecordedThread, Recording, RecordingError

MAX_EVENTS = 10_000_000
"""Of a recording that is kept in memory: some 120 MB."""

_MAX_TABLE = 1 << 17
"""Different events of one VM: hosts have some ten per vCPU."""

_ENTRY = "kvm_entry"


class Call(NamedTuple):
    """A program to run, its time since the recording's first event, and its context but for the time."""

    ns: int
    program: str
    context: bytes


@dataclass
class Track:
    """The events of one thread, in order. `ended`: the last of them is the thread's end."""

    thread: RecordedThread
    table: list[tuple[str, bytes]]
    """All that any thread of the VM did: program and context."""
    times: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[int] = field(default_factory=lambda: array("I"))
    """Which of the table."""
    ended: bool = False

    def __len__(self) -> int:
        return len(self.times)

    def calls(self, start: int = 0) -> Iterator[Call]:
        """Yield them from number `start` on."""
        for number in range(start, len(self)):
            yield Call(self.times[number], *self.table[self.numbers[number]])

    def number_of_first_exit(self) -> int | None:
        """None where there is no exit."""
        return next((number for number, call in enumerate(self.calls()) if call.program == "kvm_exit"), None)


def read(recorded: Recording, vm: int) -> list[Track]:
    """Read the tracks of one of the recording's VMs, by its place in the list. Raises RecordingError."""
    total = sum(recorded.events.values())
    if not total:
        raise RecordingError(f"{recorded.path} has no events")
    if total > MAX_EVENTS:
        raise RecordingError(
            f"{recorded.path} has {total} events, the demo takes {MAX_EVENTS} at most; "
            "`kvm-exit-exporter replay` takes any number"
        )
    wanted = recorded.vms[vm]
    context = encoder(recorded.kvm_exit)
    tracks: dict[RecordedThread, Track] = {}
    table: list[tuple[str, bytes]] = []
    known: dict[Event, int] = {}
    for runs in recorded.runs():
        for run in runs:
            if recorded.vcpus[run.thread.number].vm is not wanted:
                continue
            track = tracks.setdefault(run.thread, Track(run.thread, table))
            for ns, event in zip(run.times, run.events):
                number = known.get(event)
                if number is None:
                    number = known[event] = len(table)
                    table.append((PROGRAM_OF_KIND[event.kind], context(event)))
                track.times.append(ns - recorded.first_ns)
                track.numbers.append(number)
            track.ended = run.events[-1].kind == Kind.THREAD_END
            if len(table) > _MAX_TABLE:
                raise RecordingError(f"{recorded.path}: one VM has more than {_MAX_TABLE} different events")
    return list(tracks.values())


def passes(track: Track, duration_ns: int, endless: bool) -> Iterator[Call]:
    """Yield a thread's events, again and again if `endless`, each pass `duration_ns` later.

    A recording is a cut-out: at its end a vCPU may be out of the guest, at its start it is in an unknown state. So that
    no pass invents an interval, or an event that does not match, a pass ends with an entry where one is
    missing, and every pass but the first starts with the first exit. A thread that ended has one pass: after it
    another thread begins.
    """
    start, offset = 0, 0
    again = track.number_of_first_exit() if endless and not track.ended else None
    last = ""
    while True:
        for call in track.calls(start):
            yield call._replace(ns=call.ns + offset)
            last = call.program
        if again is None:
            return
        offset += duration_ns
        if last != _ENTRY:
            yield Call(offset, _ENTRY, bytes(88))
        start = again
