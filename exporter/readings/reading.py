"""A reading: one collection as plain values with names, and as the JSON document of /-/vcpus (docs/metrics.md).

It has every vCPU with every reason, also those that the options `level` and `reasons` leave out of /metrics.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from exporter.model.buckets import BUCKETS
from exporter.model.reason import USERSPACE_SPACES, Reason
from exporter.model.records import Cell, Snapshot, ThreadKey, VcpuRecord
from exporter.model.vm import Vcpu

PATH = "/-/vcpus"
VERSION = 1
_LIMIT = 1 << 64
"""All counters of the kernel are below this. A number with hundreds of digits would fail later, as a float."""

KINDS = EXIT, USERSPACE = "exit", "userspace"
"""Exits from guest mode, and returns of KVM_RUN to the VMM. A return can come without an exit."""


class ReasonReading(NamedTuple):
    """One reason of one vCPU: the exits, and the completed intervals by the number of their bucket."""

    kind: str
    reason: str
    klass: str
    exits: int
    sum_ns: int
    buckets: Mapping[int, int]


class InProgress(NamedTuple):
    """The exit that a vCPU is in now."""

    reason: str
    klass: str
    age_ns: int


class VcpuReading(NamedTuple):
    """One vCPU thread: its totals since its first event. `vm` is None while the VM is being looked up."""

    key: ThreadKey
    comm: str
    vm: str | None
    uuid: str
    vmm: str
    vcpu: str
    alive: bool
    guest_ns: int
    in_progress: InProgress | None
    reasons: Sequence[ReasonReading]

    @property
    def vm_label(self) -> str:
        """The name of the VM, or its pid if the name is unknown, as on /metrics."""
        return str(self.key.pid) if self.vm is None else self.vm


@dataclass(frozen=True)
class Reading:
    """All vCPUs at one time. Times are those of CLOCK_MONOTONIC; in a replay, those of the recording."""

    taken_ns: int
    since_ns: int
    """When counting began. If the value changes, counting began anew."""
    replay: bool
    counters: Mapping[str, int]
    """Events that were not counted, by cause: dropped_*, unmatched_*, missed_*, expired_early."""
    vcpus: Sequence[VcpuReading]


def nothing(since_ns: int, *, replay: bool = False) -> Reading:
    """Return the reading of the moment when counting began. It has no vCPU."""
    return Reading(since_ns, since_ns, replay, {}, ())


class DocumentError(Exception):
    """The bytes are not a document of /-/vcpus of this version."""


def reading(
    snapshot: Snapshot,
    identify: Callable[[ThreadKey], Vcpu | None],
    name: Callable[[int, int], Reason],
    *,
    since_ns: int,
    replay: bool,
) -> Reading:
    """Make a reading: add names to the vCPUs and reasons of a snapshot."""
    counters = {
        **snapshot.counters,
        **{f"missed_{program}": stats.misses for program, stats in snapshot.runs.items()},
        "expired_early": snapshot.expired_early,
    }
    vcpus = [_vcpu_reading(record, identify(record.key), name) for record in snapshot.vcpus]
    return Reading(snapshot.taken_ns, since_ns, replay, counters, vcpus)


def _vcpu_reading(record: VcpuRecord, vcpu: Vcpu | None, name: Callable[[int, int], Reason]) -> VcpuReading:
    in_progress = None
    if record.in_progress:
        reason = name(record.in_progress.space, record.in_progress.code)
        in_progress = InProgress(*reason, record.in_progress.age_ns)
    return VcpuReading(
        key=record.key,
        comm=record.comm.decode(errors="replace"),
        vm=vcpu.vm.name if vcpu else None,
        uuid=vcpu.vm.uuid if vcpu else "",
        vmm=vcpu.vm.vmm if vcpu else "",
        vcpu=vcpu.index if vcpu else "",
        alive=record.alive,
        guest_ns=record.totals.guest_ns,
        in_progress=in_progress,
        reasons=[_reason_reading(cell, name(cell.space, cell.code)) for cell in record.cells],
    )


def _reason_reading(cell: Cell, reason: Reason) -> ReasonReading:
    kind = USERSPACE if cell.space in USERSPACE_SPACES else EXIT
    buckets = {number: count for number, count in enumerate(cell.counts()) if count}
    return ReasonReading(kind, reason.name, reason.klass, cell.exits, cell.sum_ns, buckets)


def encode(now: Reading) -> bytes:
    """Return the JSON document: one line of ASCII. All numbers are integers."""
    made = {
        "version": VERSION,
        "taken_ns": now.taken_ns,
        "since_ns": now.since_ns,
        "replay": now.replay,
        "counters": dict(now.counters),
        "vcpus": [
            {**identity(thread), "guest_ns": thread.guest_ns, "reasons": [counted_fields(c) for c in thread.reasons]}
            for thread in now.vcpus
        ],
    }
    return dumps(made)


def dumps(made: Mapping[str, Any]) -> bytes:
    """Return one line of JSON that is safe to print: everything except printable ASCII is escaped."""
    # json escapes everything above 0x7f and below 0x20. DEL occurs only inside strings.
    return json.dumps(made, separators=(",", ":")).replace("\x7f", "\\u007f").encode() + b"\n"


def identity(thread: VcpuReading) -> dict[str, object]:
    """Return the JSON members that identify a vCPU, and its exit in progress."""
    return {
        "pid": thread.key.pid,
        "tid": thread.key.tid,
        "born_ns": thread.key.born_ns,
        "comm": thread.comm,
        "vm": thread.vm,
        "uuid": thread.uuid,
        "vmm": thread.vmm,
        "vcpu": thread.vcpu,
        "alive": thread.alive,
        "in_progress": thread.in_progress
        and {
            "reason": thread.in_progress.reason,
            "class": thread.in_progress.klass,
            "age_ns": thread.in_progress.age_ns,
        },
    }


def counted_fields(counted: ReasonReading) -> dict[str, object]:
    """Return the JSON members of a reason."""
    return {
        "kind": counted.kind,
        "reason": counted.reason,
        "class": counted.klass,
        "exits": counted.exits,
        "sum_ns": counted.sum_ns,
        "buckets": sorted(counted.buckets.items()),
    }


def decode(data: bytes) -> Reading:
    """Read a document, which any program may have sent. Raises DocumentError."""
    try:
        read = _Fields(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise DocumentError("not JSON") from error
    version = read.number("version")
    if version != VERSION:
        raise DocumentError(f"document version {version}, expected {VERSION}")
    counters = _Fields(read.any("counters"))
    return Reading(
        taken_ns=read.number("taken_ns"),
        since_ns=read.number("since_ns"),
        replay=read.flag("replay"),
        counters={name: counters.number(name) for name in counters.names()},
        vcpus=[_read_vcpu(_Fields(each)) for each in read.items("vcpus")],
    )


def _read_vcpu(read: _Fields) -> VcpuReading:
    now = read.any("in_progress")
    in_progress = None
    if now is not None:
        current = _Fields(now)
        in_progress = InProgress(current.text("reason"), current.text("class"), current.number("age_ns"))
    return VcpuReading(
        key=ThreadKey(read.number("pid"), read.number("tid"), read.number("born_ns")),
        comm=read.text("comm"),
        vm=None if read.any("vm") is None else read.text("vm"),
        uuid=read.text("uuid"),
        vmm=read.text("vmm"),
        vcpu=read.text("vcpu"),
        alive=read.flag("alive"),
        guest_ns=read.number("guest_ns"),
        in_progress=in_progress,
        reasons=[_read_reason(_Fields(each)) for each in read.items("reasons")],
    )


def _read_reason(read: _Fields) -> ReasonReading:
    kind = read.text("kind")
    if kind not in KINDS:
        raise DocumentError(f"unknown kind {kind!a}")
    buckets: dict[int, int] = {}
    for pair in read.items("buckets"):
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_number, pair)):
            raise DocumentError("buckets: not pairs of numbers from 0 to 2^64 - 1")
        if pair[0] >= BUCKETS:
            raise DocumentError(f"there is no bucket {pair[0]}")
        buckets[pair[0]] = pair[1]
    return ReasonReading(
        kind, read.text("reason"), read.text("class"), read.number("exits"), read.number("sum_ns"), buckets
    )


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < _LIMIT


class _Fields:
    """Members of a JSON object, each of the expected type. All methods raise DocumentError."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise DocumentError(f"expected an object, found {type(value).__name__}")
        self._value = value

    def names(self) -> list[str]:
        return list(self._value)

    def any(self, name: str) -> Any:
        try:
            return self._value[name]
        except KeyError:
            raise DocumentError(f"{name} is missing") from None

    def number(self, name: str) -> int:
        value = self.any(name)
        if not _is_number(value):
            raise DocumentError(f"{name}: not a number from 0 to 2^64 - 1")
        return int(value)

    def flag(self, name: str) -> bool:
        value = self.any(name)
        if not isinstance(value, bool):
            raise DocumentError(f"{name}: neither true nor false")
        return value

    def text(self, name: str) -> str:
        value = self.any(name)
        if not isinstance(value, str):
            raise DocumentError(f"{name}: not a string")
        return value

    def items(self, name: str) -> list[Any]:
        value = self.any(name)
        if not isinstance(value, list):
            raise DocumentError(f"{name}: not a list")
        return value
