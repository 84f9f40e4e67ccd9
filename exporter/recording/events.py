"""A recorded event, and the context that makes the counting program count this event in a replay.

In the ring buffer and in a file, an event is its time and 32 bytes (struct event of kernel/bpf/record.bpf.c without its
time). Equal events of a vCPU have equal bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from exporter.kernel import program
from exporter.kernel.isa import userspace
from exporter.kernel.syscall import TestRun
from exporter.kernel.tracepoint import TracepointFormat

NO_VCPU_ID = 0xFFFFFFFF
"""Stands in an event for a vcpu_id that the tracepoint does not have (front.bpf.h)."""

WHAT_SIZE = 32
_WHAT = struct.Struct("<IIII16s")
_EXIT = struct.Struct("<QII")
_MAX_TID = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h
_CONTEXT_SIZE = TestRun.CONTEXT_SIZE - 8
"""Bytes of a context before the time stamp."""


class Kind(IntEnum):
    """Kinds of events: the numbers of record.bpf.c and of the file format."""

    EXIT = 1
    ENTRY = 2
    USERSPACE_EXIT = 3
    THREAD_END = 4
    THREAD = 5
    """The comm of a thread, before its first event. It is not counted as an event."""


COUNTED = (Kind.EXIT, Kind.ENTRY, Kind.USERSPACE_EXIT, Kind.THREAD_END)
"""Kinds that are counted as events."""
PROGRAM_OF_KIND = {
    Kind.EXIT: "kvm_exit",
    Kind.ENTRY: "kvm_entry",
    Kind.USERSPACE_EXIT: "kvm_userspace_exit",
    Kind.THREAD_END: "sched_process_exit",
}


class Event(NamedTuple):
    """An event, without its time. `space`, `code` and `vcpu_id` are set in exits, `comm` in a THREAD."""

    kind: Kind
    tid: int
    tgid: int
    space: int = 0
    code: int = 0
    vcpu_id: int = NO_VCPU_ID
    comm: bytes = b""


def pack(event: Event) -> bytes:
    """Return the 32 bytes of an event."""
    comm = event.comm[:15].ljust(16, b"\0")
    rest = comm if event.kind == Kind.THREAD else _EXIT.pack(event.code, event.vcpu_id, 0)
    return _WHAT.pack(event.kind, event.tid, event.tgid, event.space, rest)


def unpack(what: bytes) -> Event:
    """Return the event of 32 bytes. Raises ValueError if they are not an event."""
    number, tid, tgid, space, rest = _WHAT.unpack(what)
    kind = Kind(number)
    if not (0 < tid <= _MAX_TID and 0 < tgid <= _MAX_TID):
        raise ValueError(f"an event of thread {tid} of process {tgid}")
    if kind == Kind.THREAD:
        return Event(kind, tid, tgid, comm=rest.split(b"\0", 1)[0])
    code, vcpu_id, _ = _EXIT.unpack(rest)
    return Event(kind, tid, tgid, space, code, vcpu_id)


def encoder(kvm_exit: TracepointFormat) -> Callable[[Event], bytes]:
    """Return the encoder of contexts for the program that program.replay_request() builds with this format.

    A context has the arguments of a raw tracepoint, without the time stamp that follows them. Raises LoadError for a
    format of an unknown instruction set. The encoder raises ValueError for an event that such a kernel cannot have
    sent.
    """
    encode_exit = program.isa_of(kvm_exit).encode_exit

    def context(event: Event) -> bytes:
        encoded = b""  # the programs do not read the context of entries and of the end of a thread
        if event.kind == Kind.EXIT:
            encoded = encode_exit(event.space, event.code, event.vcpu_id)
        elif event.kind == Kind.USERSPACE_EXIT:
            encoded = userspace.encode(event.space, event.code)
        return encoded.ljust(_CONTEXT_SIZE, b"\0")

    return context
