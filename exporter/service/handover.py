"""The handover to the next process of the service: the loaded program and the ledger.

systemd keeps their descriptors (FileDescriptorStoreMax=) while the service restarts. So the program stays attached and
goes on counting in the same maps. The ledger has the state that the maps lack.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from exporter.common.json_values import loads, whole
from exporter.config.options import Config
from exporter.kernel import host
from exporter.kernel.exit_check import DESCRIPTORS as CHECKED
from exporter.kernel.exit_check import ExitCheck
from exporter.kernel.host import Formats
from exporter.kernel.program import DEFINES, MAPS, OFFSET_SOURCES, TRACEPOINTS, Loaded, layouts, read_sources
from exporter.model.records import CountingSince
from exporter.service.ledger import FILES, Ledger
from exporter.service.systemd import Systemd

_VERSION = 6
"""Version of the format written here and in the ledger."""
_MAX_STATE, _MAX_STATE_VALUES = 1 << 20, 1 << 16
"""Limits of the state. It takes 30 KB, mostly for the formats of the tracepoints."""
_KVM_MODULES = ("kvm", "kvm_intel", "kvm_amd")
_STATE = "state"
_KINDS = ("map", "program", "attachment", "check")
_LEDGER = tuple(f"ledger.{number}" for number in range(FILES))


class HandoverError(Exception):
    """The stored program cannot be taken over. The message is a few words with the reason."""


class EarlierProgram(NamedTuple):
    """A program that an earlier process attached. It still counts."""

    loaded: Loaded
    formats: Formats
    since: CountingSince
    ledger: Ledger


@dataclass
class StoredDescriptors:
    """Descriptors that systemd kept for this service, by their names in its store. This process owns them."""

    names: frozenset[str]
    descriptors: dict[str, int]
    repeated: list[int] = field(default_factory=list)
    """Descriptors whose name another one has, too."""

    @classmethod
    def of(cls, passed: Iterable[tuple[str, int]]) -> StoredDescriptors:
        """Select the stored descriptors from all passed ones (name, number), which may include listening sockets."""
        mine: dict[str, int] = {}
        repeated = []
        for name, fd in passed:
            is_stored = name in (_STATE, *_LEDGER) or name.partition(".")[0] in _KINDS
            if is_stored and mine.setdefault(name, fd) != fd:
                repeated.append(fd)
        return cls(frozenset(mine), mine, repeated)

    def take_over(self, wanted: Mapping[str, Any]) -> EarlierProgram:
        """Take over the stored program, which must have the version `wanted`. Raises HandoverError."""
        if _STATE not in self.descriptors:
            raise HandoverError("the descriptor store is not complete")
        if self.repeated:
            raise HandoverError("the descriptor store has a name twice")
        try:
            state = _read(self.descriptors[_STATE])
            changed = [part for part, value in wanted.items() if state["version"].get(part) != value]
            if changed:
                raise HandoverError(f"changed: {', '.join(changed)}")
            # A check that was finished after the state was written is no longer in the store. If the earlier process
            # was killed while it removed the check, a part of it is left.
            checked = CHECKED if all(f"check.{name}" in self.descriptors for name in CHECKED) else ()
            loaded = Loaded(
                *(self._named("map", state["maps"]), layouts(state["layouts"])),
                *(self._named("program", state["programs"]), self._named("attachment", state["attachments"])),
                formats=state["formats"],
                vcpu_ids=state["vcpu_ids"],
                classic_reason=state["classic_reason"],
                unsplit_reason=state["unsplit_reason"],
                check=ExitCheck(self._named("check", checked)),
            )
            unix, ns = state["since"]
            since = CountingSince(float(unix), whole(ns, 0, 1 << 63))
            if loaded.check:
                loaded.check.read()
            formats = host.parsed(loaded.formats)
            ledger = Ledger([self.descriptors[name] for name in _LEDGER])
            taken = {f"{kind}.{name}" for kind in _KINDS[:-1] for name in state[f"{kind}s"]}.union(_LEDGER)
            taken.update(f"check.{name}" for name in checked)
        except HandoverError:
            raise
        except Exception as error:  # whatever the state holds: a start that fails would fail again at each restart
            raise HandoverError(f"the descriptor store cannot be read ({error!r})") from error
        self.descriptors = {name: fd for name, fd in self.descriptors.items() if name not in taken}
        return EarlierProgram(loaded, formats, since, ledger)

    @property
    def has_rest_of_check(self) -> bool:
        """True if a part of a check of kvm_exit is left, which was not taken over."""
        return any(name.startswith("check.") for name in self.descriptors)

    def discard(self, systemd: Systemd) -> None:
        """Close them here and in systemd's store. A program is detached when its last descriptor is closed."""
        self.close()
        for name in sorted(self.names):
            systemd.forget(name)

    def close(self) -> None:
        """Close the descriptors that were not taken over. systemd keeps its copies."""
        for fd in (*self.descriptors.values(), *self.repeated):
            os.close(fd)
        self.descriptors.clear()
        self.repeated.clear()

    def _named(self, kind: str, names: Iterable[str]) -> dict[str, int]:
        return {name: self.descriptors[f"{kind}.{name}"] for name in names}


def version(config: Config, sysfs: Path) -> dict[str, Any]:
    """Return the name (for the log) and the value of each thing that must be the same if counters are to go on.

    The BTF of KVM's modules decides at which offsets the program reads KVM's memory. The BTF of vmlinux stays the same
    until the next boot, which clears the store.

    It reads the program's C files. Call it before root privileges are dropped, because the later user may be unable to
    read these files. Raises OSError.
    """
    source = hashlib.sha256("".join(read_sources("counting")).encode())
    source.update(repr((_VERSION, MAPS["counting"], TRACEPOINTS, sorted(DEFINES.items()))).encode())
    for path in OFFSET_SOURCES:
        source.update(path.read_bytes())
    return {
        "BPF program": source.hexdigest(),
        "KVM module": _fingerprint(sysfs / "kernel/btf" / module for module in _KVM_MODULES),
        "limits.vcpus": config.limits.vcpus,
        "limits.cells": config.limits.cells,
        "bpf_stats": config.bpf_stats,
        "level.time": config.level.time != "off",
    }


def _fingerprint(paths: Iterable[Path]) -> str:
    """A hash of these files. A file that cannot be read counts as empty."""
    found = hashlib.sha256()
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()


def stored_names(loaded: Loaded) -> frozenset[str]:
    """Return the names of all descriptors in systemd's store: the program's, the ledger's and the state."""
    return frozenset((*_LEDGER, _STATE, *(name for name, _ in _descriptors(loaded))))


def _descriptors(loaded: Loaded) -> list[tuple[str, int]]:
    groups = zip(_KINDS, (loaded.maps, loaded.programs, loaded.attachments, loaded.check.descriptors))
    return [(f"{kind}.{name}", fd) for kind, group in groups for name, fd in group.items()]


def forget_check(systemd: Systemd) -> None:
    """Remove the check of kvm_exit from systemd's store: otherwise its programs would stay attached."""
    for name in CHECKED:
        systemd.forget(f"check.{name}")


def store(systemd: Systemd, loaded: Loaded, its_version: Mapping[str, Any], since: CountingSince) -> Ledger:
    """Give systemd the descriptors of an attached program, so that it stays attached after this process.

    Returns a new ledger for the program. Raises OSError.
    """
    ledger = Ledger.create()
    for name, fd in zip(_LEDGER, ledger.files):
        systemd.store(name, fd)
    for name, fd in _descriptors(loaded):
        systemd.store(name, fd)
    state = {
        "version": its_version,
        "since": since,
        "maps": list(loaded.maps),
        "programs": list(loaded.programs),
        "attachments": list(loaded.attachments),
        "layouts": {
            name: (layout.size, layout.entries, dict(layout.fields)) for name, layout in loaded.layouts.items()
        },
        "formats": dict(loaded.formats),
        "vcpu_ids": loaded.vcpu_ids,
        "classic_reason": loaded.classic_reason,
        "unsplit_reason": loaded.unsplit_reason,
    }
    fd = os.memfd_create("kvm-exit-exporter-state")
    with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(json.dumps(state).encode())
        file.flush()
        systemd.store(_STATE, fd)  # stored last: if this one is in the store, all others are there too
    return ledger


def _read(fd: int) -> Any:
    """Return the JSON value of a memfd.

    It calls pread(), because the offset of the descriptor is at the end of the file. Raises OSError and ValueError.
    """
    data = os.pread(fd, _MAX_STATE + 1, 0)
    if len(data) > _MAX_STATE:
        raise ValueError(f"a state of more than {_MAX_STATE} bytes")
    return loads(data, _MAX_STATE_VALUES)
