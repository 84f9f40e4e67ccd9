"""The reader of ftrace's ring buffer, on pages in the kernel's format."""

from __future__ import annotations

import struct

import pytest

from tests.e2e.ring import records_of


def page(*records: bytes, lost: int = 0) -> bytes:
    data = b"".join(records)
    return (struct.pack("=QQ", 12345, len(data) | lost) + data).ljust(4096, b"\xff")


def event(data: bytes) -> bytes:
    """A record whose size is in its header, in words of four bytes."""
    return struct.pack("=I", len(data) // 4 | 1000 << 5) + data


def long_event(data: bytes) -> bytes:
    return struct.pack("=II", 0, len(data) + 4) + data


PADDING = struct.pack("=II", 29 | 7 << 5, 12) + bytes(8)
TIME = struct.pack("=II", 30 | 7 << 5, 99)
STAMP = struct.pack("=II", 31 | 7 << 5, 99)


def test_only_events_are_records() -> None:
    first, second, third = b"one.", b"second..", bytes(256)
    text = page(TIME, event(first), PADDING, event(second), STAMP, long_event(third), event(first))
    found = [text[begin : begin + 4] for begin in records_of(text)]
    assert found == [b"one.", b"seco", bytes(4), b"one."]


def test_an_empty_page() -> None:
    assert list(records_of(page())) == []


@pytest.mark.parametrize("flag", [1 << 31, 1 << 30 | 1 << 31])
def test_lost_events_are_an_error(flag: int) -> None:
    with pytest.raises(RuntimeError, match="events were lost"):
        list(records_of(page(event(b"one."), lost=flag)))
