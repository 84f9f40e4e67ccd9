"""From one start of the service to the next: the loaded program, and what is still served of ended vCPUs.

systemd keeps the descriptors (FileDescriptorStoreMax=) while the service restarts, so the program stays attached and
counts on in the same maps. Numbers that are in memory alone, those of ended vCPUs, are passed in a memfd.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from exporter.config import Config
from exporter.program import BPF, MAPS, PROGRAMS, SOURCES, Loaded, layouts
from exporter.reasons import Space
from exporter.records import Cell, ThreadKey, VcpuRecord
from exporter.snapshot import Retired
from exporter.systemd import Systemd
from exporter.vms import Vcpu, Vm

_VERSION = 1
"""Of what is written here."""
_STATE, _ENDED = "state", "ended"
_KINDS = ("map", "program", "attachment")


class Since(NamedTuple):
    """When counting began: Unix time, and nanoseconds by the program's clock."""

    unix: float
    ns: int


Ended = Sequence[tuple[Retired, "Vcpu | None"]]


class HandoverError(Exception):
    """What was kept cannot be taken over; a few words say why."""


@dataclass
class Kept:
    """What an earlier process left: descriptors by their names in the store, owned by this process now."""

    names: frozenset[str]
    descriptors: dict[str, int]

    @classmethod
    def of(cls, passed: Iterable[tuple[str, int]]) -> Kept:
        """Pick them out of what systemd passed, where there may be sockets too."""
        mine = [(name, fd) for name, fd in passed if name in (_STATE, _ENDED) or name.partition(".")[0] in _KINDS]
        return cls(frozenset(name for name, _ in mine), dict(mine))

    def take(self, config: Config) -> tuple[Loaded, Since]:
        """The loaded program, and since when it counts. Raises HandoverError."""
        if _STATE not in self.descriptors:
            raise HandoverError("the descriptor store is not complete")
        try:
            state = json.loads(_read(self.descriptors[_STATE]))
            wanted = version(config)
            changed = [what for what, value in wanted.items() if state["version"].get(what) != value]
            if changed:
                raise HandoverError(f"another {', '.join(changed)}")
            loaded = Loaded(
                *(self._named("map", state["maps"]), layouts(state["layouts"])),
                *(self._named("program", state["programs"]), self._named("attachment", state["attachments"])),
                formats=state["formats"],
            )
            since = Since(*state["since"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise HandoverError(f"the descriptor store cannot be read ({error!r})") from error
        for kind in _KINDS:
            for name in state[f"{kind}s"]:
                del self.descriptors[f"{kind}.{name}"]
        return loaded, since

    def take_ended(self) -> Ended:
        """What was still served of ended vCPUs. Raises HandoverError."""
        if _ENDED not in self.descriptors:
            return []
        try:
            return _unpacked(_read(self.descriptors[_ENDED]))
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise HandoverError(f"the values of ended vCPUs cannot be read ({error!r})") from error

    def discard(self, systemd: Systemd) -> None:
        """Have nothing of it kept any longer: with its last descriptor a program is detached."""
        self.close()
        for name in sorted(self.names):
            systemd.forget(name)

    def close(self) -> None:
        """Close what was not taken over; the store keeps what it has."""
        for fd in self.descriptors.values():
            os.close(fd)
        self.descriptors.clear()

    def _named(self, kind: str, names: Iterable[str]) -> dict[str, int]:
        return {name: self.descriptors[f"{kind}.{name}"] for name in names}


def version(config: Config) -> dict[str, Any]:
    """What must be the same for counters to go on: words for it, and its value."""
    source = hashlib.sha256(b"".join((BPF / name).read_bytes() for name in SOURCES["counting"]))
    source.update(
        repr((_VERSION, MAPS["counting"], PROGRAMS, sorted((space.name, int(space)) for space in Space))).encode()
    )
    return {
        "BPF program": source.hexdigest(),
        "limits.vcpus": config.limits.vcpus,
        "limits.cells": config.limits.cells,
        "bpf_stats": config.bpf_stats,
    }


def keep(systemd: Systemd, loaded: Loaded, config: Config, since: Since) -> None:
    """Have an attached program survive this process, even if it is killed."""
    groups: dict[str, Mapping[str, int]] = {
        "map": loaded.maps,
        "program": loaded.programs,
        "attachment": loaded.attachments,
    }
    for kind, descriptors in groups.items():
        for name, fd in descriptors.items():
            systemd.store(f"{kind}.{name}", fd)
    state = {
        "version": version(config),
        "since": since,
        **{f"{kind}s": list(descriptors) for kind, descriptors in groups.items()},
        "layouts": {
            name: (layout.size, layout.entries, dict(layout.fields)) for name, layout in loaded.layouts.items()
        },
        "formats": dict(loaded.formats),
    }
    _store(systemd, _STATE, json.dumps(state).encode())  # the last: with it, all others are there


def keep_ended(systemd: Systemd, ended: Ended) -> None:
    """Have the next start serve these ended vCPUs, and no others, as long as this one would have."""
    systemd.forget(_ENDED)
    if ended:
        _store(systemd, _ENDED, _packed(ended))


def _store(systemd: Systemd, name: str, data: bytes) -> None:
    fd = os.memfd_create(f"kvm-exit-exporter-{name}")
    with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(data)
        file.flush()
        systemd.store(name, fd)


def _read(fd: int) -> bytes:
    """The whole of a memfd, whose offset the writer left at its end."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


# A length, that many bytes of JSON without the buckets, and then the buckets of all cells in the same order.
_LENGTH = struct.Struct("=Q")


def _packed(ended: Ended) -> bytes:
    described, buckets = [], []
    for retired, vcpu in ended:
        record = retired.record
        described.append(
            {
                "key": record.key,
                "comm": record.comm.hex(),
                "vcpu_id": record.vcpu_id,
                "guest_ns": record.guest_ns,
                "expires_ns": retired.expires_ns,
                "vm": asdict(vcpu.vm) if vcpu else None,
                "index": vcpu.index if vcpu else "",
                "cells": [(cell.space, cell.code, cell.exits, cell.sum_ns, len(cell.buckets)) for cell in record.cells],
            }
        )
        buckets += [cell.buckets for cell in record.cells]
    # Names are a guest's owner's, and may hold what is no text: surrogates go through JSON as escapes.
    head = json.dumps(described).encode()
    return b"".join([_LENGTH.pack(len(head)), head, *buckets])


def _unpacked(data: bytes) -> Ended:
    at = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    ended: list[tuple[Retired, Vcpu | None]] = []
    for one in json.loads(data[_LENGTH.size : at]):
        cells = []
        for space, code, exits, sum_ns, size in one["cells"]:
            cells.append(Cell(space, code, exits, sum_ns, data[at : at + size]))
            at += size
        record = VcpuRecord(
            key=ThreadKey(*one["key"]),
            comm=bytes.fromhex(one["comm"]),
            vcpu_id=one["vcpu_id"],
            guest_ns=one["guest_ns"],
            cells=tuple(cells),
            in_progress=None,
            alive=False,
        )
        vcpu = Vcpu(Vm(**one["vm"]), one["index"]) if one["vm"] else None
        ended.append((Retired(record, one["expires_ns"]), vcpu))
    if at != len(data):
        raise ValueError(f"{len(data)} bytes, expected {at}")
    return ended
