"""The file format: a written recording is read back, and a wrong recording is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.model.reason import Space
from exporter.recording import blocks, recording
from exporter.recording.blocks import Type
from exporter.recording.events import COUNTED, Event, Kind
from exporter.recording.writer import Writer
from tests.recordings import from_ftrace
from tests.unit.recording.small import ENTRY, EXIT, HEADER, MMIO, SMALL, THREAD, VM, events_block, refusal


def test_a_written_recording_is_read_back(small: Path) -> None:
    read = recording.read(small)
    assert (read.vms, read.vcpus[0].vm, read.vcpus[0].index) == ((VM,), VM, "7")
    assert {kind: read.events[kind] for kind in COUNTED} == dict(zip(COUNTED, (2, 1, 1, 1)))
    assert (read.first_ns, read.last_ns) == (990, 2000)
    ((run,),) = read.runs()
    assert (run.thread.tid, run.thread.tgid, run.thread.comm) == (43, 41, b"CPU 7/KVM")
    assert list(zip(run.times, run.events)) == SMALL[1:]


def test_a_tid_that_starts_again_is_another_thread(tmp_path: Path) -> None:
    """The first thread ends, and a second thread starts with the same tid.

    Then a third thread starts with this tid, but the event for the second thread's end was lost.
    """
    path = tmp_path / "again"
    happened = [*SMALL, (3000, THREAD), (3001, ENTRY), (4000, THREAD), (4001, ENTRY), (4002, EXIT)]
    from_ftrace.write(path, HEADER, [VM], happened)
    (runs,) = recording.read(path).runs()
    assert [(run.thread.number, len(run.events)) for run in runs] == [(0, 5), (1, 1), (2, 2)]


def _remade(path: Path, change: Callable[[Type, bytes], bytes | None]) -> Path:
    """Copy a recording with changed blocks and correct checksums. To leave a block out, `change` returns None."""
    made = [blocks.start()]
    for block in blocks.read(path):
        content = change(block.type, block.content)
        if content is not None:
            made.append(blocks.pack(block.type, content, block.entries))
    other = path.with_name("remade")
    other.write_bytes(b"".join(made))
    return other


def _json(kind: Type, **members: object) -> Callable[[Type, bytes], bytes | None]:
    def change(found: Type, content: bytes) -> bytes | None:
        return json.dumps({**json.loads(content), **members}).encode() if found == kind else content

    return change


THREADS = [{"tid": 43, "vm": 0, "comm": "CPU 7/KVM", "vcpu": "7"}]
IDENTITY = {"pid": 41, "name": "n", "uuid": "", "vmm": "qemu"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda kind, content: None if kind == Type.HEADER else content, "is of type EVENTS, expected HEADER"),
        (lambda kind, content: None if kind == Type.VMS else content, "is of type END, expected VMS"),
        (lambda kind, content: b"[" * 10**5 if kind == Type.HEADER else content, "(HEADER) is not valid: "),
        (lambda kind, content: b"{}" if kind == Type.HEADER else content, "is not valid: 'kvm_exit' is missing"),
        (_json(Type.HEADER, kvm_exit=""), "(HEADER) is not valid: line 1: the file ends without a print fmt"),
        (_json(Type.HEADER, machine=7), "(HEADER) is not valid: expected text, found int"),
        (_json(Type.VMS, threads=[]), "(VMS) is not valid: its threads are not those of the events"),
        (_json(Type.VMS, threads=THREADS * 2), "(VMS) is not valid: its threads are not those of the events"),
        (_json(Type.VMS, vms=[]), "(VMS) is not valid: expected a number from 0 to -1, found 0"),
        (_json(Type.VMS, vms=[{**IDENTITY, "pid": 42}]), "(VMS) is not valid: its threads are not those of the events"),
        (_json(Type.VMS, vms=[{**IDENTITY, "name": "a\0b"}]), "not valid: text of 3 characters (limit 128, no NUL)"),
        (_json(Type.VMS, vms=[{**IDENTITY, "name": "x" * 129}]), "(VMS) is not valid: text of 129 characters"),
        (_json(Type.VMS, vms=[{**IDENTITY, "name": "\ud800"}]), "(VMS) is not valid: 'utf-8' codec can't encode"),
        (_json(Type.END, events={}), "(END) is not valid: events are {}, the blocks have {'exit': 2, "),
        (_json(Type.END, lost={"exit": 1}), "(END) is not valid: lost are {'exit': 1}, the blocks have {'exit': 0, "),
    ],
)  # fmt: skip
def test_a_block_with_wrong_content_is_refused(
    small: Path, change: Callable[[Type, bytes], bytes | None], said: str
) -> None:
    assert said in refusal(_remade(small, change))


@pytest.mark.parametrize(
    ("happened", "said"),
    [
        ([(1, EXIT)], "an event of thread 43 of process 41, which was not announced"),
        ([*SMALL, (3000, ENTRY)], "an event of thread 43 of process 41, which was not announced"),
        ([(1, THREAD), (2, ENTRY._replace(tgid=44))], "an event of thread 43 of process 44, which was not announced"),
        ([(1, THREAD), (2, EXIT._replace(space=Space.SVM))], "an arm64 exit of space 2, code 22"),
        ([(1, THREAD), (2, EXIT._replace(code=1 << 40))], "an arm64 exit of space 3, code 1099511627776"),
        ([(1, THREAD), (2, MMIO._replace(space=4))], "an exit to user space of space 4, code 6"),
        ([(1, THREAD), (2, ENTRY._replace(tid=0))], "an event of thread 0 of process 41"),
        ([(-5, THREAD)], "a time outside of 0 to 2^63 ns"),
    ],
)
def test_impossible_events_are_refused(tmp_path: Path, happened: list[tuple[int, Event]], said: str) -> None:
    path = tmp_path / "wrong"
    with path.open("wb") as out:
        Writer(out, HEADER)
        out.write(events_block(happened))
    assert refusal(path).endswith(f"(EVENTS) is not valid: {said}")


def test_too_many_threads_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "threads"
    with path.open("wb") as out:
        Writer(out, HEADER)
        for _ in range(2):
            out.write(events_block([(number, THREAD) for number in range(blocks.MAX_EVENTS // 2 + 1)]))
    assert refusal(path).endswith("(EVENTS) is not valid: more than 65536 threads")


def test_lost_events_are_summed_by_kind(tmp_path: Path) -> None:
    path = tmp_path / "lost"
    with path.open("wb") as out:
        recorded = Writer(out, HEADER)
        recorded.losses(5, 9, {Kind.EXIT: 17, Kind.ENTRY: 19})
        recorded.losses(10, 12, {Kind.EXIT: 2, Kind.THREAD_END: 1})
        recorded.close([], [], "duration")
    read = recording.read(path)
    assert {kind: read.lost[kind] for kind in COUNTED} == dict(zip(COUNTED, (19, 19, 0, 1)))
    assert not any(read.events.values())
