"""Finds the VMs whose exits were dropped. Such a process may have no vCPU in any snapshot."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.metrics.own import VmDrops
from exporter.model.records import ProcessDrops, ThreadKey
from exporter.naming.lookup import Lookup


class DroppedVms:
    """Looks up the VMs of processes, through the first thread of each process. Not thread-safe."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._keys: dict[int, ThreadKey] = {}

    def named(self, drops: Mapping[int, ProcessDrops]) -> list[VmDrops]:
        """Return the drops of the VMs whose names are known. Start the look-up of the others."""
        self._lookup.forget(key for pid, key in self._keys.items() if pid not in drops)
        self._keys = {pid: ThreadKey(pid, pid, 0) for pid in drops}
        named = []
        for pid, key in self._keys.items():
            self._lookup.submit(key, b"", None)
            vcpu = self._lookup.get(key)
            if vcpu:
                named.append(VmDrops(vcpu.vm, drops[pid]))
        return named
