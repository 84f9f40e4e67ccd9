"""The processes whose exits were dropped. The program has room for some of them (NR_DROPPERS in maps.bpf.h)."""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from exporter.common.procfs import has_foreign_pids, start_time
from exporter.kernel import syscall
from exporter.model.records import ProcessDrops

_DROPS = struct.Struct("=QQ")
"""struct process_drops of maps.bpf.h."""


@dataclass
class _Dropper:
    drops: ProcessDrops
    changed_ns: int
    """Time of the collection that saw the last drop, on the collector's clock."""
    started: int | None
    """Start time of the process; None if it cannot be read."""


class Droppers:
    """Reads the drops of each process, and deletes those of ended processes. Otherwise they would fill the map."""

    def __init__(self, drops: int, proc: Path) -> None:
        """`drops` is the descriptor of the map."""
        self._map = drops
        self._proc = proc
        self._foreign_pids = has_foreign_pids(proc)
        self._known: dict[int, _Dropper] = {}

    def read(self, living: Collection[int], now: int, linger_ns: int) -> dict[int, ProcessDrops]:
        """Return the drops by process. `living` are the processes that have a living vCPU.

        A process without a living vCPU is deleted when `linger_ns` has passed since its last drop. A process is also
        deleted if another process has its pid. Raises OSError.
        """
        found: dict[int, _Dropper] = {}
        for pid in syscall.map_keys(self._map):
            drops = ProcessDrops(*_DROPS.unpack(syscall.map_lookup(self._map, pid, _DROPS.size)))
            started = None if self._foreign_pids else start_time(self._proc / str(pid))
            known = self._known.get(pid, _Dropper(ProcessDrops(), now, started))
            if drops != known.drops:
                known = _Dropper(drops, now, known.started)
            replaced = None not in (started, known.started) and started != known.started
            if replaced or (pid not in living and now - known.changed_ns >= linger_ns):
                syscall.map_delete(self._map, pid)
            else:
                found[pid] = known
        self._known = found
        return {pid: each.drops for pid, each in found.items()}
