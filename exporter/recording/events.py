"""One recorded event, and the context that makes the counting program see it again.

In the ring buffer and in a file an event is its time and 32 bytes that say what it was (struct event of
record.bpf.c, but for its time): whatever a vCPU does again and again is the same 32 bytes each time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from exporter.collect.maps import NO_VCPU_ID
from exporter.kernel.syscall import TestRun
from exporter.kernel.tracepoint import TracepointFormat
from exporter.model.reason import Space

WHAT_SIZE = 32
_WHAT = struct.Struct("<IIII16s")
_EXIT = struct.Struct("<QII")
_ARM_EXCEPTION_TRAP = 2  # arch/arm64/include/asm/kvm_asm.h
_MAX_TID = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h
_CONTEXT_SIZE = TestRun.CONTEXT_SIZE - 8
"""Of what a program is run with, before the time stamp."""


class Kind(IntEnum):
    """Numbers of record.bpf.c and of the file format."""

    EXIT = 1
    ENTRY = 2
    USERSPACE_EXIT = 3
    THREAD_END = 4
    THREAD = 5
    """No event of its own: a thread's comm, before its first event."""


COUNTED = (Kind.EXIT, Kind.ENTRY, Kind.USERSPACE_EXIT, Kind.THREAD_END)
PROGRAM_OF_KIND = {
    Kind.EXIT: "kvm_exit",
    Kind.ENTRY: "kvm_entry",
    Kind.USERSPACE_EXIT: "kvm_userspace_exit",
    Kind.THREAD_END: "sched_process_exit",
}


class Event(NamedTuple):
    """What happened, without its time. `comm` is that of a THREAD, the three before it those of the exits."""

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
    """Read 32 bytes. Raises ValueError where they are no event."""
    number, tid, tgid, space, rest = _WHAT.unpack(what)
    kind = Kind(number)
    if not (0 < tid <= _MAX_TID and 0 < tgid <= _MAX_TID):
        raise ValueError(f"an event of thread {tid} of process {tgid}")
    if kind == Kind.THREAD:
        return Event(kind, tid, tgid, comm=rest.split(b"\0", 1)[0])
    code, vcpu_id, _ = _EXIT.unpack(rest)
    return Event(kind, tid, tgid, space, code, vcpu_id)


def encoder(kvm_exit: TracepointFormat) -> Callable[[Event], bytes]:
    """Return what makes contexts for the program that program.request_for() asks for with this format.

    A context is what the tracepoint passes, without the time stamp behind it; ValueError for an event that such a
    kernel cannot have sent.
    """
    exit_context = _arm64_exit if "ret" in kvm_exit.fields else _x86_exit(kvm_exit)

    def context(event: Event) -> bytes:
        if event.kind == Kind.EXIT:
            return exit_context(event)
        if event.kind != Kind.USERSPACE_EXIT:  # entries, the end: what they pass is not read
            return bytes(_CONTEXT_SIZE)
        failed = event.space == Space.USERSPACE_ERRNO
        if event.code >= 1 << 31 or not (failed or event.space == Space.USERSPACE):
            raise ValueError(f"an exit to user space of space {event.space}, code {event.code}")
        return struct.pack("=qq72x", *((0, -event.code) if failed else (event.code, 0)))

    return context


def _arm64_exit(event: Event) -> bytes:
    if event.code < 1 << 31:
        if event.space == Space.ARM64_TRAP:
            return struct.pack("=QQ72x", _ARM_EXCEPTION_TRAP, event.code)
        if event.space == Space.ARM64_RET and event.code != _ARM_EXCEPTION_TRAP:
            return struct.pack("=QQ72x", event.code, 0)
    raise ValueError(f"an arm64 exit of space {event.space}, code {event.code}")


def _x86_exit(kvm_exit: TracepointFormat) -> Callable[[Event], bytes]:
    at = {name: field.offset for name, field in kvm_exit.fields.items()}
    fields = [name for name in ("isa", "exit_reason", "vcpu_id") if name in at]
    if any(at[name] + 4 > _CONTEXT_SIZE for name in fields):
        raise ValueError("a record of kvm:kvm_exit that is too long to be replayed")

    def context(event: Event) -> bytes:
        values = {"isa": event.space, "exit_reason": event.code, "vcpu_id": event.vcpu_id}
        if event.code >= 1 << 32:
            raise ValueError(f"an x86 exit of space {event.space}, code {event.code}")
        record = bytearray(_CONTEXT_SIZE)
        for name in fields:
            struct.pack_into("=I", record, at[name], values[name])
        return bytes(record)

    return context
