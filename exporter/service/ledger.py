"""What is in this process' memory alone, written down so that the next one goes on from it even if this one is killed.

That is: vCPUs that ended and are still served, slots and cells that are cleared and not handed back yet, and what
series hold of threads that are gone. It lies in two memfds that systemd keeps, as it keeps the BPF maps. They are
written in turn, and each becomes valid with its header, in one write that no signal divides: one is always whole.
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

from exporter.metrics.series import NOTHING_CARRIED, CarriedOver
from exporter.model.records import NO_HANDOVER, Cell, EndedVcpu, FreeEntry, Handover, ThreadKey, VcpuRecord
from exporter.model.vm import Vcpu, Vm

FILES = 2

_MAGIC = b"KVMEXIT\1"
_HEADER = struct.Struct("=8s5Q")
"""Magic, and the members of _Header."""
_CHUNK = 1 << 20


class LedgerError(Exception):
    """It cannot be read; a few words say why."""


class LedgerEntry(NamedTuple):
    """A vCPU that ended: until when it is served, whose it was if that is known, and what pages had of it."""

    record: VcpuRecord
    expires_ns: int
    vcpu: Vcpu | None
    served: tuple[int, int]
    """Exits, and those to the VMM."""


class LedgerState(NamedTuple):
    """What an earlier process wrote down."""

    left: Handover = NO_HANDOVER
    names: Sequence[tuple[ThreadKey, Vcpu]] = ()
    served: Mapping[ThreadKey, tuple[int, int]] = MappingProxyType({})
    """Exits, and those to the VMM, that pages had of a vCPU that ended."""
    bases: CarriedOver = NOTHING_CARRIED


EMPTY_STATE = LedgerState()


class _LedgerHeader(NamedTuple):
    generation: int
    """The higher one counts."""
    text: int
    """Bytes of JSON, which come first."""
    size: int
    """Bytes in all."""
    begun: int
    """Numbers that were about to be handed back, of those that are named."""
    done: int
    """Numbers that were."""


class Ledger:
    """Two files, owned. Not thread-safe."""

    def __init__(self, files: Sequence[int]) -> None:
        self._files = list(files)
        self._newest, self._header = 0, _LedgerHeader(0, 0, 0, 0, 0)
        self._freed = 0
        """Numbers named in what is written, that may still be handed back."""
        self._fragments: dict[ThreadKey, tuple[LedgerEntry, str]] = {}
        self._written: tuple[list[ThreadKey], CarriedOver | None] = ([], None)

    @classmethod
    def create(cls) -> Ledger:
        """An empty one. Raises OSError."""
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
        """The descriptors, to be kept elsewhere too."""
        return self._files

    def close(self) -> None:
        """Close the files."""
        for fd in self._files:
            os.close(fd)
        self._files.clear()

    def read(self) -> LedgerState:
        """What was written last, by whomever. Raises LedgerError; then the next write() begins anew."""
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
                raise ValueError(f"{header} is not what is there")
            written = _read(os.pread(self._files[newest], header.size, _HEADER.size), header)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise LedgerError(repr(error)) from error
        self._newest, self._header = newest, header
        return written

    def write(
        self, ended: Sequence[LedgerEntry], freed: Sequence[FreeEntry], bases: CarriedOver, *, always: bool
    ) -> None:
        """Write all of it down, at least where it is not what was written last. Raises OSError: then that still stands.

        `freed` are the numbers that will be handed back from now on, the last one first; step() says how far that is.
        """
        known, self._fragments = self._fragments, {}
        changed = always or self._written[1] != bases
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
            # Names are a guest's owner's, and may hold what is no text: surrogates go through JSON as escapes.
            text = f'{{"ended":[{described}],"freed":{json.dumps(freed)},"bases":{json.dumps(bases)}}}'.encode()
            self._replace(text, (cell.buckets for each in ended for cell in each.record.cells))
        except BaseException:  # out of memory, too
            self._give_up_freed()
            raise
        self._freed = len(freed)
        self._written = (keys, bases)

    def step(self, done: bool) -> None:
        """Say that the next number is about to be handed back, or that it has been. Raises OSError.

        What failed is said again: a number is not handed back before it was announced, and is announced once.
        """
        header = self._header
        if done and header.done < header.begun:
            self._header = header._replace(done=header.begun)
            self._put(self._newest, self._header)
        elif not done and header.begun == header.done < self._freed:
            header = header._replace(begun=header.begun + 1)
            self._put(self._newest, header)
            self._header = header

    def _give_up_freed(self) -> None:
        """What was written before must have no number handed back twice: one that is lost is the lesser evil."""
        freed, self._freed = self._freed, 0
        if freed:
            with contextlib.suppress(OSError):
                self._header = self._header._replace(begun=freed, done=freed)
                self._put(self._newest, self._header)

    def _replace(self, text: bytes, buckets: Iterable[bytes]) -> None:
        file = 1 - self._newest
        fd = self._files[file]
        os.ftruncate(fd, 0)  # its header too
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
        with contextlib.suppress(OSError):  # its memory is all that it is for
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
        "guest_ns": record.guest_ns,
        "expires_ns": each.expires_ns,
        "vm": asdict(each.vcpu.vm) if each.vcpu else None,
        "index": each.vcpu.index if each.vcpu else "",
        "served": each.served,
        "cells": [(cell.space, cell.code, cell.exits, cell.sum_ns, len(cell.buckets)) for cell in record.cells],
    }


def _read(data: bytes, header: _LedgerHeader) -> LedgerState:
    said, at = json.loads(data[: header.text]), header.text
    retired: list[EndedVcpu] = []
    names: list[tuple[ThreadKey, Vcpu]] = []
    served: dict[ThreadKey, tuple[int, int]] = {}
    for one in said["ended"]:
        cells = []
        for space, code, exits, sum_ns, size in one["cells"]:
            cells.append(Cell(space, code, exits, sum_ns, data[at : at + size]))
            at += size
        key = ThreadKey(*one["key"])
        record = VcpuRecord(
            key=key,
            comm=bytes.fromhex(one["comm"]),
            vcpu_id=one["vcpu_id"],
            guest_ns=one["guest_ns"],
            cells=tuple(cells),
            in_progress=None,
            alive=False,
        )
        retired.append(EndedVcpu(record, one["expires_ns"]))
        if one["vm"]:
            names.append((key, Vcpu(Vm(**one["vm"]), one["index"])))
        exits, userspace = one["served"]
        served[key] = (exits, userspace)
    if at != len(data):
        raise ValueError(f"{len(data)} bytes, expected {at}")
    freed = [(stack, number) for stack, number in said["freed"]]
    untouched = freed[: len(freed) - header.begun]
    unsure = freed[len(freed) - header.begun] if header.begun > header.done else None
    return LedgerState(Handover(retired, untouched, unsure), names, served, CarriedOver.of(said["bases"]))
