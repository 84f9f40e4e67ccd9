"""What each thread of a VM did, kept in memory so that it can be played again and again."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.replay.events import PROGRAMS, Event, Kind, encoder
from exporter.replay.recording import Recording, RecordingError, Thread

MAX_EVENTS = 10_000_000
"""Of a recording that is kept in memory: some 120 MB."""

_ENTRY = "kvm_entry"


class Call(NamedTuple):
    """A program to run, its time since the recording's first event, and its context but for the time."""

    ns: int
    program: str
    context: bytes


@dataclass
class Track:
    """The events of one thread, in order. `ended`: the last of them is the thread's end."""

    thread: Thread
    ended: bool = False
    _times: array[int] = field(default_factory=lambda: array("q"))
    _numbers: array[int] = field(default_factory=lambda: array("I"))
    _table: list[tuple[str, bytes]] = field(default_factory=list)
    _known: dict[Event, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._times)

    def calls(self, start: int = 0) -> Iterator[Call]:
        """Yield them from number `start` on."""
        for number in range(start, len(self)):
            yield Call(self._times[number], *self._table[self._numbers[number]])

    def number_of_first_exit(self) -> int | None:
        """None where there is no exit."""
        return next((number for number, call in enumerate(self.calls()) if call.program == "kvm_exit"), None)


def read(recorded: Recording, vm: int) -> list[Track]:
    """Read the tracks of one of the recording's VMs, by its place in the list. Raises RecordingError."""
    if not any(recorded.events.values()):
        raise RecordingError(f"{recorded.path} has no events")
    if sum(recorded.events.values()) > MAX_EVENTS:
        raise RecordingError(
            f"{recorded.path} has {sum(recorded.events.values())} events, the demo takes at most {MAX_EVENTS}: "
            "see it with `kvm-exit-exporter replay`"
        )
    wanted = recorded.vms[vm]
    context = encoder(recorded.kvm_exit)
    tracks: dict[Thread, Track] = {}
    for runs in recorded.runs():
        for run in runs:
            if recorded.vcpus[run.thread.number].vm is not wanted:
                continue
            track = tracks.setdefault(run.thread, Track(run.thread))
            for ns, event in zip(run.times, run.events):
                number = track._known.get(event)
                if number is None:
                    number = track._known[event] = len(track._table)
                    track._table.append((PROGRAMS[event.kind], context(event)))
                track._times.append(ns - recorded.first_ns)
                track._numbers.append(number)
            track.ended = run.events[-1].kind == Kind.THREAD_END
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
