"""From one start of the service to the next: the loaded program, and the ledger of what is in no map.

systemd keeps the descriptors (FileDescriptorStoreMax=) while the service restarts, so the program stays attached and
counts on in the same maps. What is in memory alone is in the ledger.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from exporter.config.options import Config
from exporter.kernel.program import DEFINES, MAPS, TRACEPOINTS, Loaded, layouts, read_sources
from exporter.service.ledger import FILES, Ledger
from exporter.service.systemd import Systemd

_VERSION = 2
"""Of what is written here and in the ledger."""
_STATE = "state"
_KINDS = ("map", "program", "attachment")
_LEDGER = tuple(f"ledger.{number}" for number in range(FILES))


class Since(NamedTuple):
    """When counting began: Unix time, and nanoseconds by the program's clock."""

    unix: float
    ns: int


class HandoverError(Exception):
    """What was kept cannot be taken over; a few words say why."""


@dataclass
class StoredDescriptors:
    """What an earlier process left: descriptors by their names in the store, owned by this process now."""

    names: frozenset[str]
    descriptors: dict[str, int]

    @classmethod
    def of(cls, passed: Iterable[tuple[str, int]]) -> StoredDescriptors:
        """Pick them out of what systemd passed, where there may be sockets too."""
        mine = [(name, fd) for name, fd in passed if name in (_STATE, *_LEDGER) or name.partition(".")[0] in _KINDS]
        return cls(frozenset(name for name, _ in mine), dict(mine))

    def take(self, config: Config) -> tuple[Loaded, Since, Ledger]:
        """The loaded program, since when it counts, and the ledger of it. Raises HandoverError."""
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
            ledger = Ledger([self.descriptors[name] for name in _LEDGER])
            taken = {f"{kind}.{name}" for kind in _KINDS for name in state[f"{kind}s"]}.union(_LEDGER)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise HandoverError(f"the descriptor store cannot be read ({error!r})") from error
        self.descriptors = {name: fd for name, fd in self.descriptors.items() if name not in taken}
        return loaded, since, ledger

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
    source = hashlib.sha256("".join(read_sources("counting")).encode())
    source.update(repr((_VERSION, MAPS["counting"], TRACEPOINTS, sorted(DEFINES.items()))).encode())
    return {
        "BPF program": source.hexdigest(),
        "limits.vcpus": config.limits.vcpus,
        "limits.cells": config.limits.cells,
        "bpf_stats": config.bpf_stats,
    }


def names(loaded: Loaded) -> frozenset[str]:
    """Under which a program is in the store."""
    return frozenset((*_LEDGER, _STATE, *(name for name, _ in _descriptors(loaded))))


def _descriptors(loaded: Loaded) -> list[tuple[str, int]]:
    groups = zip(_KINDS, (loaded.maps, loaded.programs, loaded.attachments))
    return [(f"{kind}.{name}", fd) for kind, group in groups for name, fd in group.items()]


def keep(systemd: Systemd, loaded: Loaded, config: Config, since: Since) -> Ledger:
    """Have an attached program survive this process, even if it is killed; returns the ledger to be kept of it.

    Raises OSError.
    """
    ledger = Ledger.create()
    for name, fd in zip(_LEDGER, ledger.files):
        systemd.store(name, fd)
    for name, fd in _descriptors(loaded):
        systemd.store(name, fd)
    state = {
        "version": version(config),
        "since": since,
        "maps": list(loaded.maps),
        "programs": list(loaded.programs),
        "attachments": list(loaded.attachments),
        "layouts": {
            name: (layout.size, layout.entries, dict(layout.fields)) for name, layout in loaded.layouts.items()
        },
        "formats": dict(loaded.formats),
    }
    fd = os.memfd_create("kvm-exit-exporter-state")
    with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(json.dumps(state).encode())
        file.flush()
        systemd.store(_STATE, fd)  # the last: with it, all others are there
    return ledger


def _read(fd: int) -> bytes:
    """The whole of a memfd, whose offset the writer left at its end."""
    return os.pread(fd, os.fstat(fd).st_size, 0)
