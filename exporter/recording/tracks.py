"""The events of each thread of a VM, kept in memory so that they can be played again and again."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.recording.events import PROGRAM_OF_KIND, Event, Kind, encoder
from exporter.recording.recording import MAX_DISTINCT, RecordedThread, Recording, RecordingError

MAX_EVENTS, MAX_VMS, MAX_VCPUS = 2_000_000, 32, 1024
"""Limits of a recording whose events are kept in memory. Each VM takes a process, which reads the whole recording.

A million events take 12 MB and one second, and a distinct event takes 500 bytes.
"""

_ENTRY = "kvm_entry"


class Call(NamedTuple):
    """One run of a BPF program."""

    ns: int
    """Nanoseconds since the first event of the recording."""
    program: str
    context: bytes
    """The context without the time stamp at its end."""


@dataclass
class Track:
    """The events of one thread, in order."""

    thread: RecordedThread
    table: list[tuple[str, bytes]]
    """Program and context of each distinct event of the VM; all tracks of the VM share the table."""
    times: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[int] = field(default_factory=lambda: array("I"))
    """Index in the table, for each event."""
    ended: bool = False
    """True if the last event is the end of the thread."""

    def __len__(self) -> int:
        return len(self.times)

    def calls(self, start: int = 0) -> Iterator[Call]:
        """Yield the runs from event number `start` on."""
        for number in range(start, len(self)):
            yield Call(self.times[number], *self.table[self.numbers[number]])

    def number_of_first_exit(self) -> int | None:
        """Number of the first event that is an exit; None if there is none."""
        return next((number for number, call in enumerate(self.calls()) if call.program == "kvm_exit"), None)


def check_limits(recorded: Recording) -> None:
    """Check that a recording is small enough for a process for each of its VMs. Raises RecordingError."""
    found = (
        (sum(recorded.events.values()), MAX_EVENTS, "events"),
        (len(recorded.vms), MAX_VMS, "VMs"),
        (len(recorded.vcpus), MAX_VCPUS, "vCPU threads"),
        (recorded.distinct, MAX_DISTINCT, "distinct events"),
    )
    for number, most, what in found:
        if number > most:
            raise RecordingError(
                f"{recorded.path} has {number} {what}, the demo can replay {most} at most; "
                "`kvm-exit-exporter replay` shows its counts"
            )
    if not found[0][0]:
        raise RecordingError(f"{recorded.path} has no events")


def read(recorded: Recording, vm: int) -> list[Track]:
    """Read the tracks of the VM with index `vm` in the recording's list. Raises RecordingError."""
    check_limits(recorded)
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
    return list(tracks.values())


def passes(track: Track, duration_ns: int, endless: bool) -> Iterator[Call]:
    """Yield the runs of a thread, once or, if `endless`, again and again.

    Each pass begins `duration_ns` after the previous one.

    A recording begins and ends at an arbitrary moment: at its end a vCPU may be out of the guest, and at its start the
    state of the vCPU is unknown. Passes must not create intervals or unmatched events that were not recorded. So a
    pass that does not end with an entry gets one, and every pass after the first starts with the first exit. If the
    thread ended in the recording, there is one pass: the next pass is played by a new thread.
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
