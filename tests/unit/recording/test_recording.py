"""The file format: what is written is read again, and nothing else is read as a recording."""

from __future__ import annotations

import gzip
import json
import os
import stat
import struct
import subprocess
import sys
import textwrap
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.reason import Space
from exporter.model.vm import Vm
from exporter.recording import blocks, columns, recording, writer
from exporter.recording.blocks import RecordingError, Type
from exporter.recording.events import COUNTED, Event, Kind, pack, unpack
from exporter.recording.writer import ExistsError, Writer
from tests.recordings import from_ftrace
from tests.support.paths import ROOT

HEADER = from_ftrace.header(from_ftrace.DEMO)
VM = Vm(41, "web,1", "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0001", "qemu")
THREAD = Event(Kind.THREAD, 43, 41, comm=b"CPU 7/KVM")
EXIT = Event(Kind.EXIT, 43, 41, Space.ARM64_TRAP, 0x16)
ENTRY = Event(Kind.ENTRY, 43, 41)
MMIO = Event(Kind.USERSPACE_EXIT, 43, 41, Space.USERSPACE, 6)
END = Event(Kind.THREAD_END, 43, 41)
SMALL = [(1000, THREAD), (1000, EXIT), (1003, MMIO), (1100, ENTRY), (990, EXIT), (2000, END)]


def _events_block(happened: list[tuple[int, Event]]) -> bytes:
    table = list(dict.fromkeys(pack(event) for _, event in happened))
    numbers = [table.index(pack(event)) for _, event in happened]
    return blocks.pack(Type.EVENTS, columns.pack(table, numbers, [ns for ns, _ in happened]), len(happened))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.kvmrec"
    from_ftrace.write(path, HEADER, [VM], SMALL)
    return path


def _refusal(path: Path) -> str:
    with pytest.raises(RecordingError) as caught:
        recording.read(path)
    said = str(caught.value)
    assert said.isprintable()
    assert said.count(str(path)) == 1
    return said


def test_what_was_written_is_read(small: Path) -> None:
    read = recording.read(small)
    assert (read.vms, read.vcpus[0].vm, read.vcpus[0].index) == ((VM,), VM, "7")
    assert {kind: read.events[kind] for kind in COUNTED} == dict(zip(COUNTED, (2, 1, 1, 1)))
    assert (read.first_ns, read.last_ns) == (990, 2000)
    ((run,),) = read.runs()
    assert (run.thread.tid, run.thread.tgid, run.thread.comm) == (43, 41, b"CPU 7/KVM")
    assert list(zip(run.times, run.events)) == SMALL[1:]


_TIDS = st.integers(1, 1 << 22)


@given(
    st.lists(
        st.tuples(
            st.integers(0, (1 << 63) - 1),
            st.sampled_from(COUNTED),
            _TIDS,
            st.integers(0, (1 << 31) - 1),
        ),
        min_size=1,
        max_size=300,
    )
)
def test_columns(happened: list[tuple[int, Kind, int, int]]) -> None:
    events = [(ns, Event(kind, tid, 9, 3, code, 5)) for ns, kind, tid, code in happened]
    table = list(dict.fromkeys(pack(event) for _, event in events))
    numbers = [table.index(pack(event)) for _, event in events]
    content = columns.pack(table, numbers, [ns for ns, _ in events])
    assert len(content) == 32 * len(table) + 10 * len(events)
    again, numbers_again, times = columns.unpack(content, len(events))
    assert [(ns, unpack(again[number])) for ns, number in zip(times, numbers_again)] == events


@given(st.binary(max_size=2000), st.integers(0, 70_000))
def test_no_content_breaks_the_reader(content: bytes, entries: int) -> None:
    try:
        table, _, _ = columns.unpack(content, entries)
        for what in table:
            unpack(what)
    except ValueError:
        pass


def test_the_same_tid_again_is_another_thread(tmp_path: Path) -> None:
    """Ended, or announced anew because its end was lost."""
    path = tmp_path / "again"
    happened = [*SMALL, (3000, THREAD), (3001, ENTRY), (4000, THREAD), (4001, ENTRY), (4002, EXIT)]
    from_ftrace.write(path, HEADER, [VM], happened)
    (runs,) = recording.read(path).runs()
    assert [(run.thread.number, len(run.events)) for run in runs] == [(0, 5), (1, 1), (2, 2)]


def test_cut_off_at_every_byte(small: Path, tmp_path: Path) -> None:
    whole, cut = small.read_bytes(), tmp_path / "cut"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        said = _refusal(cut)
        assert said.endswith(" is empty") if not length else " is cut off" in said


def test_cut_off_at_every_block_of_a_real_one(tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    whole = recording.DEFAULT.read_bytes()
    places = [int(block.place.rsplit(" ", 1)[1]) for block in blocks.read(recording.DEFAULT)]
    assert len(places) == 5
    for place in places:
        cut.write_bytes(whole[:place])
        assert f" is cut off: it ends after {place} bytes, without the closing block" in _refusal(cut)


def test_a_flipped_bit_is_found_wherever_it_is(small: Path, tmp_path: Path) -> None:
    whole, flipped = bytearray(small.read_bytes()), tmp_path / "flipped"
    for at in range(len(whole)):
        whole[at] ^= 1 << at % 8
        flipped.write_bytes(whole)
        said = _refusal(flipped)
        if at >= 12:
            assert " is damaged: " in said
        else:
            assert " is not a recording" in said if at < 8 else " has format version " in said
        whole[at] ^= 1 << at % 8


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "{} is empty"),
        (gzip.compress(b"x" * 100), "{} is not a recording (a gzip file): it does not begin like a recording"),
        (b"TGID TID COMM\n" * 10, "{} is not a recording: it does not begin like a recording"),
        (b"\x7f", "{} is not a recording: it does not begin like a recording"),
        (
            struct.pack("<8sI", blocks.MAGIC, 2) + b"whatever",
            "{} has format version 2, this kvm-exit-exporter reads version 1",
        ),
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    assert _refusal(path) == said.format(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "missing").endswith(": No such file or directory")
    assert _refusal(tmp_path).endswith(": Is a directory")
    os.mkfifo(tmp_path / "fifo")
    assert _refusal(tmp_path / "fifo").endswith(" is not a file")


def test_more_after_the_end(small: Path) -> None:
    length = small.stat().st_size
    with small.open("ab") as file:
        file.write(b"\0")
    assert _refusal(small) == f"{small} has more bytes after its closing block, at byte {length}"


def _head(kind: bytes, entries: int, length: int, stored: bytes) -> bytes:
    head = struct.pack("<4sIIII", kind, entries, length, len(stored), zlib.crc32(stored))
    return head + struct.pack("<I", zlib.crc32(head)) + stored


BOMB = zlib.compress(bytes(1 << 28), 9)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (_head(b"HEAD", 0, 1 << 28, BOMB), f"claims 268435456 bytes ({len(BOMB)} stored), at most 2097152 are read"),
        (_head(b"HEAD", 0, 1000, BOMB), "does not decompress to the 1000 bytes that it claims"),
        (_head(b"HEAD", 0, 2, b"{}"), "is damaged: Error -3 while decompressing data: incorrect header check"),
        (
            struct.pack("<4sIIII", b"EVTS", 0, 10, 0xFFFFFFFF, 0),
            "claims 10 bytes (4294967295 stored), at most 2752512 are read",
        ),
        (_head(b"EVTS", 1 << 20, 10, b""), "claims 10 bytes (0 stored), at most 2752512 are read"),
        (_head(b"what", 0, 2, zlib.compress(b"{}")), "has an unknown type, b'what'"),
    ],
)
def test_no_length_is_believed(tmp_path: Path, block: bytes, said: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(blocks.start() + (block if len(block) > 20 else block + struct.pack("<I", zlib.crc32(block))))
    tracemalloc.start()
    try:
        assert _refusal(path) == f"{path}: block 1 at byte 12 {said}"
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def _remade(path: Path, change: Callable[[Type, bytes], bytes | None]) -> Path:
    """Copy with other contents and right checksums; None leaves a block out."""
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
def test_a_block_that_is_wrong_inside(small: Path, change: Callable[[Type, bytes], bytes | None], said: str) -> None:
    assert said in _refusal(_remade(small, change))


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
def test_events_that_cannot_be(tmp_path: Path, happened: list[tuple[int, Event]], said: str) -> None:
    path = tmp_path / "wrong"
    with path.open("wb") as out:
        Writer(out, HEADER)
        out.write(_events_block(happened))
    assert _refusal(path).endswith(f"(EVENTS) is not valid: {said}")


def test_too_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "threads"
    with path.open("wb") as out:
        Writer(out, HEADER)
        for _ in range(2):
            out.write(_events_block([(number, THREAD) for number in range(blocks.MAX_EVENTS // 2 + 1)]))
    assert _refusal(path).endswith("(EVENTS) is not valid: more than 65536 threads")


def test_losses_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lost"
    with path.open("wb") as out:
        recorded = Writer(out, HEADER)
        recorded.losses(5, 9, {Kind.EXIT: 17, Kind.ENTRY: 19})
        recorded.losses(10, 12, {Kind.EXIT: 2, Kind.THREAD_END: 1})
        recorded.close([], [], "duration")
    read = recording.read(path)
    assert {kind: read.lost[kind] for kind in COUNTED} == dict(zip(COUNTED, (19, 19, 0, 1)))
    assert not any(read.events.values())


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with writer.create(tmp_path / "new", force=False) as out:
            assert stat.S_IMODE(os.fstat(out.fileno()).st_mode) == 0o600
    finally:
        os.umask(before)


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path, target, link = tmp_path / "there", tmp_path / "target", tmp_path / "link"
    for file in (path, target):
        file.write_text("before")
    link.symlink_to(target)
    with pytest.raises(ExistsError, match="there exists: choose another name, or overwrite it with --force"):
        writer.create(path, force=False)
    for force in (False, True):
        with pytest.raises(ExistsError, match="link exists and is not a file: choose another name"):
            writer.create(link, force=force)
        with pytest.raises(ExistsError, match="exists and is not a file"):
            writer.create(tmp_path, force=force)
    assert (path.read_text(), target.read_text()) == ("before", "before")
    with path.open() as open_before, writer.create(path, force=True):
        assert open_before.read() == "before"  # whoever has it open keeps the old one
    assert path.read_text() == ""


def test_only_its_own_file_is_discarded(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with writer.create(path, force=False) as out:
        path.rename(tmp_path / "moved")
        path.write_text("another's")
        writer.discard(out, path)
        assert path.read_text() == "another's"
        (tmp_path / "moved").rename(path)
        writer.discard(out, path)
        assert not list(tmp_path.iterdir())
        writer.discard(out, path)


def test_a_full_disk_leaves_a_whole_recording(tmp_path: Path) -> None:
    """The block that did not fit is taken back, and the closing block fits where it was."""
    path = tmp_path / "full"
    code = (
        "import resource, sys, pathlib\n"
        "from tests.unit.recording.test_recording import *\n"
        f"out = writer.create(pathlib.Path({str(path)!r}), force=False)\n"
        "recorded = Writer(out, HEADER)\n"
        "def send(happened):\n"
        "    table = [pack(event) for _, event in happened]\n"
        "    recorded.events(table, range(len(table)), [ns for ns, _ in happened])\n"
        "send(SMALL)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (recorded.size + 1000,) * 2)\n"
        "try: send([(ns * 7919 % 100003, ENTRY._replace(tid=ns * 31 % 4001 + 1)) for ns in range(9973)])\n"
        "except OSError as error: print(error.strerror)\n"
        "recorded.close([VM], [writer.ThreadEntry(43, 0, 'CPU 7/KVM', '7')], 'no space')\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "File too large\n"
    assert sum(recording.read(path).events.values()) == len(SMALL)


def test_a_file_that_nothing_can_be_written_to() -> None:
    with Path("/dev/full").open("wb", buffering=0) as out, pytest.raises(OSError, match="No space left"):
        Writer(out, HEADER)


def test_the_reader_in_the_documentation(tmp_path: Path) -> None:
    """The page is enough to write another reader: the one it has reads the same events."""
    page = ROOT / "docs" / "recording-format.md"
    code = textwrap.dedent(page.read_text().split("## Reading one\n")[1])
    (tmp_path / "web-1.kvmrec").write_bytes(recording.DEFAULT.read_bytes())
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [tuple(map(int, line.split())) for line in said.stdout.splitlines() if not line.startswith("{")]
    found = [line for line in lines if line[1] != Kind.THREAD]
    expected = [
        (ns, event.kind, event.tid, event.tgid, event.space, event.code, event.vcpu_id)
        for runs in recording.read(recording.DEFAULT).runs()
        for run in runs
        for ns, event in zip(run.times, run.events)
    ]
    assert len(lines) == len(found) + 5
    assert sorted(found) == sorted(expected)
