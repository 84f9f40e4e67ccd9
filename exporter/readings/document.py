"""Encodes a reading as the JSON document of /-/vcpus, and decodes it (docs/metrics.md describes the document)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from exporter.common.json_values import loads
from exporter.model.buckets import BUCKETS
from exporter.model.records import ThreadKey, TimeParts
from exporter.readings.reading import KINDS, InProgress, Reading, ReasonReading, VcpuReading

PATH = "/-/vcpus"
VERSION = 1
MAX_VALUES = 1 << 22
"""Limit of the values in a document: 5,000 vCPUs with seven reasons of twenty buckets each have half of it."""
_LIMIT = 1 << 64
"""All counters of the kernel are below this. A number with hundreds of digits would later fail to become a float."""


class DocumentError(Exception):
    """The bytes are not a document of /-/vcpus of this version."""


def encode(now: Reading) -> list[bytes]:
    """Return the JSON document in pieces: one line of ASCII. All numbers are integers.

    A vCPU is a piece, so that the objects of all vCPUs are never in memory at the same time.
    """
    head = {
        "version": VERSION,
        "taken_ns": now.taken_ns,
        "since_ns": now.since_ns,
        "replay": now.replay,
        "counters": dict(now.counters),
    }
    pieces = [_text(head)[:-1] + ',"vcpus":[']
    separator = ""
    for thread in now.vcpus:
        reasons = [counted_fields(counted) for counted in thread.reasons]
        times = {"guest_ns": thread.guest_ns, "wait_ns": thread.wait_ns}
        pieces.append(separator + _text({**identity(thread), **times, "reasons": reasons}))
        separator = ","
    pieces.append("]}\n")
    return [piece.encode() for piece in pieces]


def dumps(made: Mapping[str, Any]) -> bytes:
    """Return one line of JSON that is safe to print: everything except printable ASCII is escaped."""
    return _text(made).encode() + b"\n"


def _text(made: Mapping[str, Any]) -> str:
    # json escapes everything above 0x7f and below 0x20. DEL occurs only inside strings.
    return json.dumps(made, separators=(",", ":")).replace("\x7f", "\\u007f")


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
    parts = counted.parts
    return {
        "kind": counted.kind,
        "reason": counted.reason,
        "class": counted.klass,
        "exits": counted.exits,
        "sum_ns": counted.sum_ns,
        "wait_ns": parts and parts.wait,
        "sleep_ns": parts and parts.sleep,
        "vmm_ns": parts and parts.vmm,
        "buckets": sorted(counted.buckets.items()),
    }


def decode(data: bytes) -> Reading:
    """Read a document, which any program may have sent. Raises DocumentError."""
    try:
        read = _Fields(loads(data, MAX_VALUES))
    except json.JSONDecodeError as error:
        raise DocumentError("not JSON") from error
    except ValueError as error:
        raise DocumentError(f"not JSON that can be read: {error}") from error
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
        wait_ns=read.optional_number("wait_ns"),
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
        kind,
        read.text("reason"),
        read.text("class"),
        read.number("exits"),
        read.number("sum_ns"),
        buckets,
        _read_parts(read),
    )


def _read_parts(read: _Fields) -> TimeParts | None:
    wait, sleep, vmm = (read.optional_number(name) for name in ("wait_ns", "sleep_ns", "vmm_ns"))
    if wait is None or sleep is None or vmm is None:
        return None
    return TimeParts(wait, wait + sleep, vmm)


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

    def optional_number(self, name: str) -> int | None:
        """Return None for null. Older exporters do not have the member."""
        return None if self._value.get(name) is None else self.number(name)

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
