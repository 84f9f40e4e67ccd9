"""A recording from an untrusted source costs little before it is refused, and nothing is started for it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from exporter.config.options import Config
from exporter.model.vm import Vm
from exporter.recording import blocks, columns, recording, tracks
from exporter.recording.blocks import RecordingFile, Type
from exporter.recording.events import Event, Kind, pack
from exporter.recording.recording import FREE_WORK, MAX_DISTINCT
from exporter.service.attach import StartError
from exporter.service.replay import ReplaySource
from tests.recordings import from_ftrace
from tests.unit.recording.small import ENTRY, EXIT, HEADER, THREAD, events_block, refusal

_HEADER = blocks.pack(Type.HEADER, json.dumps(dataclasses.asdict(HEADER)).encode())


def _written(path: Path, happened: list[tuple[int, Event]], vms: list[Vm]) -> Path:
    from_ftrace.write(path, HEADER, vms, happened)
    return path


def _refused_by_the_demo(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the error of the demo. It must start only the process that reads the file."""
    started: list[str] = []
    popen = subprocess.Popen

    def counted(command: list[str], **options: Any) -> Any:
        started.append(re.findall("exporter[.a-z]*", command[3])[0])
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", counted)
    with pytest.raises(StartError) as caught:
        ReplaySource(Config(), path, 1.0, None)
    assert started == ["exporter.recording.plan"]
    return str(caught.value).replace(str(path), "FILE")


def test_many_vms_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 1.5 KB once made root start 41 processes."""
    vms = [Vm(41 + number, "x", "", "qemu") for number in range(tracks.MAX_VMS + 1)]
    path = _written(tmp_path / "vms", [(1000, THREAD), (1000, EXIT), (1001, ENTRY)], vms)
    assert _refused_by_the_demo(path, monkeypatch) == (
        "FILE has 33 VMs, the demo can replay 32 at most; `kvm-exit-exporter replay` shows its counts"
    )


def test_many_threads_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened = []
    for tid in range(43, 43 + tracks.MAX_VCPUS + 1):
        happened += [(1000, THREAD._replace(tid=tid)), (1000, EXIT._replace(tid=tid))]
    path = _written(tmp_path / "threads", happened, [Vm(41, "x", "", "qemu")])
    assert _refused_by_the_demo(path, monkeypatch).startswith("FILE has 1025 vCPU threads, the demo can replay 1024")


def test_many_distinct_events_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened = [(1000, THREAD), *((1000, EXIT._replace(vcpu_id=number)) for number in range(MAX_DISTINCT))]
    path = _written(tmp_path / "distinct", happened, [Vm(41, "x", "", "qemu")])
    assert _refused_by_the_demo(path, monkeypatch).startswith(
        "FILE has 32769 distinct events, the demo can replay 32768"
    )


def test_a_recording_at_the_limits_is_replayed(tmp_path: Path) -> None:
    happened = [(1000, THREAD), *((1000, EXIT._replace(vcpu_id=number)) for number in range(MAX_DISTINCT - 1))]
    vms = [Vm(41 + number, "x", "", "qemu") for number in range(tracks.MAX_VMS)]
    read = recording.read(_written(tmp_path / "most", happened, vms))
    (track,) = tracks.read(read, 0)
    assert len(track) == MAX_DISTINCT - 1


def test_a_small_file_with_many_events_is_refused_before_all_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 226 KB once kept its reader busy for 100 s."""
    first = [(1000, THREAD), *([(1000, EXIT), (1000, ENTRY)] * 32767)]
    more = events_block([(1000, EXIT), (1000, ENTRY)] * 32768)
    path = tmp_path / "bomb"
    path.write_bytes(blocks.start() + _HEADER + events_block(first) + more * 300)
    assert path.stat().st_size < 250_000
    read: list[int] = []
    unpack = columns.unpack

    def counted(content: bytes, entries: int) -> Any:
        read.append(entries)
        return unpack(content, entries)

    monkeypatch.setattr(columns, "unpack", counted)
    assert refusal(path).endswith("not valid: the events take less than a byte each: no host sends such events")
    assert sum(read) <= FREE_WORK + blocks.MAX_EVENTS


def test_an_event_that_a_table_repeats_is_refused(tmp_path: Path) -> None:
    table = [pack(THREAD), pack(EXIT), pack(EXIT)]
    path = tmp_path / "twice"
    path.write_bytes(blocks.start() + _HEADER + blocks.pack(Type.EVENTS, columns.pack(table, [0, 1, 2], [1, 2, 3]), 3))
    assert refusal(path).endswith("the table has an event twice")


def test_a_thread_that_is_announced_twice_with_the_same_name_is_read(tmp_path: Path) -> None:
    happened = [(1, THREAD), (1, EXIT), (2, Event(Kind.THREAD_END, 43, 41)), (3, THREAD), (3, EXIT)]
    assert len(recording.read(_written(tmp_path / "again", happened, [Vm(41, "x", "", "qemu")])).vcpus) == 2


@pytest.mark.parametrize("block_type", [Type.VMS, Type.HEADER])
def test_many_small_values_are_refused_unread(tmp_path: Path, block_type: Type) -> None:
    """A file of 17 KB once took 453 MB."""
    content = b"[" + b"[]," * ((1 << 21) // 3 - 2) + b"[]]"
    path = tmp_path / "values"
    before = b"" if block_type == Type.HEADER else _HEADER + events_block([(1000, THREAD), (1000, EXIT)])
    path.write_bytes(blocks.start() + before + blocks.pack(block_type, content))
    assert path.stat().st_size < 10_000
    most = 1 << 16 if block_type == Type.HEADER else 655360
    assert refusal(path).endswith(f"({block_type.name}) is not valid: more than {most} values")


def test_a_file_is_read_by_its_descriptor(tmp_path: Path) -> None:
    """The process may open the path no more after it has dropped its privileges."""
    path = _written(tmp_path / "gone", [(1000, THREAD), (1000, EXIT)], [Vm(41, "x", "", "qemu")])
    opened = RecordingFile.opened(path)
    path.unlink()
    assert opened.descriptor is not None
    first, second = recording.read(opened), recording.read(opened)
    assert first == second
    assert [[run.events for run in runs] for runs in first.runs()] == [[[EXIT]]]
    os.close(opened.descriptor)
