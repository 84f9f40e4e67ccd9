"""A recording of one thread, small enough to be cut at every byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.reason import Space
from exporter.model.vm import Vm
from exporter.recording import blocks, columns, recording
from exporter.recording.blocks import RecordingError, Type
from exporter.recording.events import Event, Kind, pack
from tests.recordings import from_ftrace

HEADER = from_ftrace.header(from_ftrace.DEMO)
VM = Vm(41, "web,1", "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0001", "qemu")
THREAD = Event(Kind.THREAD, 43, 41, comm=b"CPU 7/KVM")
EXIT = Event(Kind.EXIT, 43, 41, Space.ARM64_TRAP, 0x16)
ENTRY = Event(Kind.ENTRY, 43, 41)
MMIO = Event(Kind.USERSPACE_EXIT, 43, 41, Space.USERSPACE, 6)
END = Event(Kind.THREAD_END, 43, 41)
SMALL = [(1000, THREAD), (1000, EXIT), (1003, MMIO), (1100, ENTRY), (990, EXIT), (2000, END)]


def events_block(happened: list[tuple[int, Event]]) -> bytes:
    table = list(dict.fromkeys(pack(event) for _, event in happened))
    numbers = [table.index(pack(event)) for _, event in happened]
    return blocks.pack(Type.EVENTS, columns.pack(table, numbers, [ns for ns, _ in happened]), len(happened))


def refusal(path: Path) -> str:
    with pytest.raises(RecordingError) as caught:
        recording.read(path)
    said = str(caught.value)
    assert said.isprintable()
    assert said.count(str(path)) == 1
    return said
