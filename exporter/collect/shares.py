"""The use of the two pools, by process and in total. The program adds what it takes (kernel/bpf/share.bpf.h).

Only a collection knows which slots and cells are free again. So each collection stores the numbers that the arrays
show. The program may take more at the same moment, and the stored number is then too low by these. The next collection
stores it again. A number that is not exact moves a limit a little. It changes no count.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence

from exporter.collect.maps import ArrayMap
from exporter.kernel import syscall
from exporter.kernel.program import Loaded
from exporter.model.records import FreeEntry, VcpuRecord

_USAGE = struct.Struct("=QQ")
"""struct usage of maps.bpf.h: slots, cells."""


class Shares:
    """Stores the use of the pools. Raises OSError if there is no memory to map."""

    def __init__(self, loaded: Loaded) -> None:
        self._all = _UsageMap(loaded.maps["usage"], loaded.layouts["usage"])
        self._by_process = loaded.maps["shares"]
        self._known = False
        """False until the processes in the map are known: an earlier process may have ended before it stored them."""
        self._outdated: set[int] = set()

    def close(self) -> None:
        """Unmap the array."""
        self._all.close()

    def store(
        self, live: Sequence[VcpuRecord], slots: int, pending: Iterable[FreeEntry], ended: Collection[int]
    ) -> None:
        """Store the numbers of this collection.

        `slots` is the number of slots in use, `pending` are entries that are not yet returned. `ended` are the
        processes whose slots and cells were cleared. If the kernel refuses a number, the next collection stores it.
        """
        waiting = [stack for stack, _ in pending]
        cells = sum(len(record.cells) for record in live)
        self._all.store(slots + waiting.count("free_slots"), cells + waiting.count("free_cells"))
        self._outdated.update(ended)
        if not self._known:
            with contextlib.suppress(OSError):
                self._outdated.update(syscall.map_keys(self._by_process))
                self._known = True
        if self._outdated:
            stored = set(self._store_processes(live))
            self._outdated = (self._outdated - stored) | set(ended)

    def _store_processes(self, live: Sequence[VcpuRecord]) -> Iterator[int]:
        """Store the numbers of the outdated processes. Yield those that the kernel did not refuse."""
        found = {pid: [0, 0] for pid in self._outdated}
        for record in live:
            if record.key.pid in found:
                found[record.key.pid][0] += 1
                found[record.key.pid][1] += len(record.cells)
        for pid, (slots, cells) in found.items():
            with contextlib.suppress(OSError):
                if slots:
                    syscall.map_update(self._by_process, pid, _USAGE.pack(slots, cells))
                else:
                    syscall.map_delete(self._by_process, pid)
                yield pid


class _UsageMap(ArrayMap):
    """The use by all processes together."""

    def store(self, slots: int, cells: int) -> None:
        self._words[self.layout.fields["slots"].offset // 8] = slots
        self._words[self.layout.fields["cells"].offset // 8] = cells
