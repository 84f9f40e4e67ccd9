"""A recording is refused if its blocks are cut off, damaged, foreign, or have a false length."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest

from exporter.recording import blocks, recording
from tests.unit.recording.small import refusal


def test_a_file_that_is_cut_off_at_any_byte_is_refused(small: Path, tmp_path: Path) -> None:
    whole, cut = small.read_bytes(), tmp_path / "cut"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        said = refusal(cut)
        assert said.endswith(" is empty") if not length else " is cut off" in said


def test_a_real_recording_that_is_cut_off_between_blocks_is_refused(tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    whole = recording.DEFAULT.read_bytes()
    places = [int(block.place.rsplit(" ", 1)[1]) for block in blocks.read(recording.DEFAULT)]
    assert len(places) == 5
    for place in places:
        cut.write_bytes(whole[:place])
        assert f" is cut off: it ends after {place} bytes, without the closing block" in refusal(cut)


def test_a_flipped_bit_is_found_in_every_byte(small: Path, tmp_path: Path) -> None:
    whole, flipped = bytearray(small.read_bytes()), tmp_path / "flipped"
    for at in range(len(whole)):
        whole[at] ^= 1 << at % 8
        flipped.write_bytes(whole)
        said = refusal(flipped)
        if at >= 12:
            assert " is damaged: " in said
        else:
            assert " is not a recording" in said if at < 8 else " has format version " in said
        whole[at] ^= 1 << at % 8


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "{} is empty"),
        (
            gzip.compress(b"x" * 100, mtime=0),
            "{} is not a recording (a gzip file): it does not begin like a recording",
        ),
        (b"TGID TID COMM\n" * 10, "{} is not a recording: it does not begin like a recording"),
        (b"\x7f", "{} is not a recording: it does not begin like a recording"),
        (
            struct.pack("<8sI", blocks.MAGIC, 2) + b"whatever",
            "{} has format version 2, this kvm-exit-exporter reads version 1",
        ),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    assert refusal(path) == said.format(path)


def test_missing_files_folders_and_fifos_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing").endswith(": No such file or directory")
    assert refusal(tmp_path).endswith(": Is a directory")
    os.mkfifo(tmp_path / "fifo")
    assert refusal(tmp_path / "fifo").endswith(": it is not a regular file")


def test_bytes_after_the_closing_block_are_refused(small: Path) -> None:
    length = small.stat().st_size
    with small.open("ab") as file:
        file.write(b"\0")
    assert refusal(small) == f"{small} has more bytes after its closing block, at byte {length}"


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
def test_a_false_length_is_refused_without_using_much_memory(tmp_path: Path, block: bytes, said: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(blocks.start() + (block if len(block) > 20 else block + struct.pack("<I", zlib.crc32(block))))
    tracemalloc.start()
    try:
        assert refusal(path) == f"{path}: block 1 at byte 12 {said}"
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
