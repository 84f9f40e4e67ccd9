"""The ledger stores the state of this process that is in no BPF map, for the next process.

It has three parts: the ended vCPUs that are still served, the free slots and cells that are not yet returned to the
kernel, and the counts that series carry over from ended threads. It consists of two memfds, which systemd keeps like
the BPF maps. They are written alternately. A file becomes valid with its header, which is a single write that no signal
can interrupt. So one of the files is complete at every moment, even if this process is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, NamedTuple

from exporter.common.json_values import loads, text, whole
from exporter.metrics.carried import NOTHING_CARRIED, CarriedOver
from exporter.model.buckets import COUNTS
from exporter.model.records import (
    NO_HANDOVER,
    Cell,
    EndedVcpu,
    FreeEntry,
    Handover,
    ThreadKey,
    TimeParts,
    VcpuRecord,
    VcpuTotals,
)
from exporter.model.vm import Vcpu, Vm

FILES = 2

_MAX_TEXT, _MAX_VALUES = 1 << 26, 1 << 22
"""Limits of the JSON: its bytes, and its values. A million free entries take 24 MB and three million values."""
_MAX_BYTES = 1 << 28
"""Limit of JSON and buckets together: ten times the buckets of all ended vCPUs that a collector keeps."""
_MAX_U64 = (1 << 64) - 1
_LABEL_CHARACTERS = 1024
"""Limit of a text of the ledger, far above that of a VM's name (exporter/naming/identity.py)."""

_MAGIC = b"KVMEXIT\1"
_HEADER = struct.Struct("=8s5Q")
"""The magic number, then the members of _LedgerHeader."""
_CHUNK = 1 << 20


class LedgerError(Exception):
    """The ledger cannot be read. The message is a few words with the reason."""


class LedgerEntry(NamedTuple):
    """A vCPU that ended."""

    record: VcpuRecord
    expires_ns: int
    """The end of its linger time, on the collector's clock."""
    vcpu: Vcpu | None
    """Its VM and index; None if the lookup has not ended."""
    served: tuple[int, int]
    """How many exits, and exits to the VMM, of this vCPU were on a page."""


class LedgerState(NamedTuple):
    """The state that an earlier process wrote."""

    handover: Handover = NO_HANDOVER
    names: Sequence[tuple[ThreadKey, Vcpu]] = ()
    served: Mapping[ThreadKey, tuple[int, int]] = MappingProxyType({})
    """For each ended vCPU: how many of its exits, and of its exits to the VMM, were on a page."""
    carried: CarriedOver = NOTHING_CARRIED


EMPTY_STATE = LedgerState()


class _LedgerHeader(NamedTuple):
    generation: int
    """The file with the higher generation is the current one."""
    text: int
    """Size of the JSON in bytes. The buckets of all cells follow the JSON."""
    size: int
    """Bytes of JSON and buckets together."""
    begun: int
    """How many free entries this process has begun to return to the kernel."""
    done: int
    """How many free entries this process has returned to the kernel."""


class Ledger:
    """The two files. It owns their descriptors. Not thread-safe."""

    def __init__(self, files: Sequence[int]) -> None:
        self._files = list(files)
        self._newest, self._header = 0, _LedgerHeader(0, 0, 0, 0, 0)
        self._free_entries = 0
        """Number of entries in the newest file that may still be returned to the kernel."""
        self._fragments: dict[ThreadKey, tuple[LedgerEntry, str]] = {}
        self._written: tuple[list[ThreadKey], CarriedOver | None] = ([], None)

    @classmethod
    def create(cls) -> Ledger:
        """Create an empty ledger. Raises OSError."""
        files: list[int] = []
        try:
            for number in range(FILES):
                files.append(os.memfd_create(f"kvm-exit-exporter-ledger-{number}"))
        except OSError:
            for fd in files:
                os.close(fd)
            raise
        return cls(files)

    @property
    def files(self) -> Sequence[int]:
        """The descriptors, which systemd keeps too."""
        return self._files

    def close(self) -> None:
        """Close the files."""
        for fd in self._files:
            os.close(fd)
        self._files.clear()

    def read(self) -> LedgerState:
        """Read the newest state, from this or an earlier process.

        Raises LedgerError; the next write() then starts a new ledger.
        """
        headers = []
        try:
            for number, fd in enumerate(self._files):
                data = os.pread(fd, _HEADER.size, 0)
                if len(data) == _HEADER.size and data.startswith(_MAGIC):
                    headers.append((_LedgerHeader._make(_HEADER.unpack(data)[1:]), number))
            if not headers:
                return EMPTY_STATE
            header, newest = max(headers)
            if not header.text <= header.size <= os.fstat(self._files[newest]).st_size - _HEADER.size:
                raise ValueError(f"{header} does not fit the file")
            if header.text > _MAX_TEXT or header.size > _MAX_BYTES:
                raise ValueError(f"{header} is above {_MAX_TEXT} bytes of text, or {_MAX_BYTES} bytes")
            state = _parse(os.pread(self._files[newest], header.size, _HEADER.size), header)
        except Exception as error:  # whatever another process wrote there
            raise LedgerError(repr(error)) from error
        self._newest, self._header = newest, header
        return state

    def write(
        self, ended: Sequence[LedgerEntry], free_entries: Sequence[FreeEntry], carried: CarriedOver, *, always: bool
    ) -> None:
        """Write the state if it changed or if `always` is true. Raises OSError; the earlier state then stays valid.

        `free_entries` are the entries that must still be returned to the kernel, in reverse order. step() records the
        progress.
        """
        known, self._fragments = self._fragments, {}
        changed = always or self._written[1] != carried
        for each in ended:
            key = each.record.key
            fragment = known.get(key)
            if fragment is None or each.vcpu is not fragment[0].vcpu or each.served != fragment[0].served:
                fragment, changed = (each, json.dumps(_described(each))), True
            self._fragments[key] = fragment
        keys = list(self._fragments)
        if not changed and keys == self._written[0]:
            return
        self._written = ([], None)
        try:
            described = ",".join(fragment for _, fragment in self._fragments.values())
            # The VM's owner chooses its name, which may be invalid text: JSON escapes lone surrogates.
            rest = json.dumps({"free": free_entries, "carried": (carried.series, dict(carried.totals))})
            text = f'{{"ended":[{described}],{rest[1:]}'.encode()
            self._replace(text, (cell.buckets for each in ended for cell in each.record.cells))
        except BaseException:  # MemoryError too
            self._give_up_free_entries()
            raise
        self._free_entries = len(free_entries)
        self._written = (keys, carried)

    def step(self, done: bool) -> None:
        """Record that this process begins to return the next free entry, or that it has returned this entry.

        Raises OSError. After an error the caller records the same step again. So an entry is returned only after its
        step is recorded, and each step is recorded once.
        """
        header = self._header
        if done and header.done < header.begun:
            self._header = header._replace(done=header.begun)
            self._put(self._newest, self._header)
        elif not done and header.begun == header.done < self._free_entries:
            header = header._replace(begun=header.begun + 1)
            self._put(self._newest, header)
            self._header = header

    def _give_up_free_entries(self) -> None:
        """Mark all listed entries as returned. To lose an entry is better than to return it twice."""
        listed, self._free_entries = self._free_entries, 0
        if listed:
            with contextlib.suppress(OSError):
                self._header = self._header._replace(begun=listed, done=listed)
                self._put(self._newest, self._header)

    def _replace(self, text: bytes, buckets: Iterable[bytes]) -> None:
        file = 1 - self._newest
        fd = self._files[file]
        os.ftruncate(fd, 0)  # this removes its header too
        at, chunk = _HEADER.size, bytearray(text)
        for each in buckets:
            if len(chunk) >= _CHUNK:
                at += _write(fd, chunk, at)
                chunk.clear()
            chunk += each
        at += _write(fd, chunk, at)
        header = _LedgerHeader(self._header.generation + 1, len(text), at - _HEADER.size, 0, 0)
        self._put(file, header)
        old, self._newest, self._header = self._newest, file, header
        with contextlib.suppress(OSError):  # this only frees memory
            os.ftruncate(self._files[old], 0)

    def _put(self, file: int, header: _LedgerHeader) -> None:
        os.pwrite(self._files[file], _HEADER.pack(_MAGIC, *header), 0)


def _write(fd: int, data: bytearray, at: int) -> int:
    with memoryview(data) as rest:
        written = 0
        while written < len(rest):
            written += os.pwrite(fd, rest[written:], at + written)
    return written


def _described(each: LedgerEntry) -> dict[str, Any]:
    record = each.record
    return {
        "key": record.key,
        "comm": record.comm.hex(),
        "vcpu_id": record.vcpu_id,
        "totals": record.totals,
        "expires_ns": each.expires_ns,
        "vm": asdict(each.vcpu.vm) if each.vcpu else None,
        "index": each.vcpu.index if each.vcpu else "",
        "served": each.served,
        "cells": [
            (cell.space, cell.code, cell.exits, cell.sum_ns, len(cell.buckets), cell.parts) for cell in record.cells
        ],
    }


def _parse(data: bytes, header: _LedgerHeader) -> LedgerState:
    read, at = loads(data[: header.text], _MAX_VALUES), header.text
    ended: list[EndedVcpu] = []
    names: list[tuple[ThreadKey, Vcpu]] = []
    served: dict[ThreadKey, tuple[int, int]] = {}
    for one in read["ended"]:
        cells = []
        for space, code, exits, sum_ns, size, parts in one["cells"]:
            if size != COUNTS.size:
                raise ValueError(f"a cell with {size} bytes of buckets")
            split = TimeParts(*map(_u64, parts))
            cells.append(Cell(_u64(space), _u64(code), _u64(exits), _u64(sum_ns), data[at : at + size], split))
            at += size
        key = ThreadKey(*map(_u64, one["key"]))
        guest_ns, wait_ns = one["totals"]
        record = VcpuRecord(
            key=key,
            comm=bytes.fromhex(one["comm"]),
            vcpu_id=None if one["vcpu_id"] is None else _u64(one["vcpu_id"]),
            totals=VcpuTotals(_u64(guest_ns), None if wait_ns is None else _u64(wait_ns)),
            cells=tuple(cells),
            in_progress=None,
            alive=False,
        )
        ended.append(EndedVcpu(record, _u64(one["expires_ns"])))
        if one["vm"]:
            names.append((key, Vcpu(_vm(**one["vm"]), text(one["index"], _LABEL_CHARACTERS))))
        exits, userspace = one["served"]
        served[key] = (_u64(exits), _u64(userspace))
    if at != len(data):
        raise ValueError(f"{len(data)} bytes, expected {at}")
    listed = [(text(stack, _LABEL_CHARACTERS), _u64(number)) for stack, number in read["free"]]
    if not header.done <= header.begun <= min(len(listed), header.done + 1):
        raise ValueError(f"{header} does not fit {len(listed)} free entries")
    untouched = listed[: len(listed) - header.begun]
    unsure = listed[len(listed) - header.begun] if header.begun > header.done else None
    return LedgerState(Handover(ended, untouched, unsure), names, served, CarriedOver.of(read["carried"]))


def _u64(value: object) -> int:
    return whole(value, 0, _MAX_U64)


def _vm(pid: object, name: object, uuid: object, vmm: object) -> Vm:
    return Vm(_u64(pid), *(text(each, _LABEL_CHARACTERS) for each in (name, uuid, vmm)))
