"""ftrace's ring buffer: counts the events of a tracepoint by thread and fields, on kernels without hist triggers.

Debian builds Linux 5.10, and every kernel for riscv64, without CONFIG_HIST_TRIGGERS.
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
MEBIBYTES = 16  # for each CPU: more than 500,000 events
# include/linux/ring_buffer.h, enum ring_buffer_type
DATA_MAX, PADDING = 28, 29
# The length of a page has these two bits if events before the page are lost (kernel/trace/ring_buffer.c).
LENGTH, LOST = (1 << 30) - 1, 3 << 30


class Ring:
    """Counts one event of KVM from its creation on."""

    def __init__(self, event: str, fields: Sequence[str]) -> None:
        self._instance = TRACING / "instances" / f"e2e_{event}"
        self._instance.mkdir()
        (self._instance / "buffer_size_kb").write_text(str(MEBIBYTES << 10))
        text = (TRACING / "events/kvm" / event / "format").read_text()
        self._fields = [_field(text, name) for name in ("common_pid", *fields)]
        self._counts: Counter[tuple[int, ...]] = Counter()
        cpus = sorted((self._instance / "per_cpu").iterdir())
        self._buffers = [os.open(cpu / "trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK) for cpu in cpus]
        (self._instance / "events/kvm" / event / "enable").write_text("1")

    def counts(self) -> Counter[tuple[int, ...]]:
        """Return the number of events for each (tid, *fields). Raises RuntimeError if events were lost."""
        records: Counter[bytes] = Counter()
        for buffer in self._buffers:
            while page := _read(buffer):
                records.update(self._keys(page))
        for key, count in records.items():
            values = struct.unpack("=" + "".join(code for _, _, code in self._fields), key)
            self._counts[values] += count
        return self._counts

    def _keys(self, page: bytes) -> Iterator[bytes]:
        for begin in records_of(page):
            yield b"".join(page[begin + offset : begin + end] for offset, end, _ in self._fields)


def _field(text: str, name: str) -> tuple[int, int, str]:
    """Return offset, end and struct's code of a field."""
    found = re.search(rf"\b{name};\s*offset:(\d+);\s*size:(\d+);\s*signed:(\d);", text)
    if not found:
        raise RuntimeError(f"no field {name}:\n{text}")
    offset, size, signed = (int(number) for number in found.groups())
    code = {1: "b", 2: "h", 4: "i", 8: "q"}[size]
    return offset, offset + size, code if signed else code.upper()


def _read(buffer: int) -> bytes:
    try:
        return os.read(buffer, os.sysconf("SC_PAGE_SIZE"))
    except BlockingIOError:  # no more events
        return b""


def records_of(page: bytes) -> Iterator[int]:
    """Return where each record of a page begins (events/header_page and header_event in tracefs)."""
    (length,) = struct.unpack_from("=Q", page, 8)
    if length & LOST:
        raise RuntimeError("the ring buffer is too small: events were lost")
    at, end = 16, 16 + (length & LENGTH)
    while at < end:
        header, size = struct.unpack_from("=II", page, at)
        kind = header & 31
        if 0 < kind <= DATA_MAX:
            yield at + 4
            at += 4 + 4 * kind
        elif kind == 0:  # a long record: its size follows, and counts itself
            yield at + 8
            at += 4 + size
        elif kind == PADDING:
            at += 4 + size
        else:  # a time: 30 is an extension, 31 is absolute
            at += 8
