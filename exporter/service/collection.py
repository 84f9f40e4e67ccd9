"""The program as it counts: its collector, and the threads that it has seen, with their names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from exporter.collect.collector import Collector, Precautions
from exporter.common.logs import event
from exporter.kernel.program import Loaded
from exporter.metrics.kvm import Identified
from exporter.metrics.own import State
from exporter.metrics.series import CarriedOver
from exporter.model.records import EndedVcpu, FreeEntry, ThreadKey, VcpuRecord
from exporter.naming.lookup import Lookup
from exporter.naming.vcpu import nameable
from exporter.service.ledger import EMPTY_STATE, Ledger, LedgerEntry, LedgerState

log = logging.getLogger(__name__)

_RECYCLE_TRIES, _RECYCLE_PAUSE = 50, 0.01
_DROP_REMEDIES = {
    "no_slot": "raise limits.vcpus and restart",
    "no_cell": "raise limits.cells and restart",
    "chain_full": "none: a vCPU has more than eight reasons of one hash; please report it",
}


class Survival(NamedTuple):
    """Where to write down what would be lost with this process, and who knows what is to be written."""

    ledger: Ledger
    served: Callable[[ThreadKey], tuple[int, int]]
    bases: Callable[[], CarriedOver]


class Observed(NamedTuple):
    """As of one moment: no later snapshot has what is gone."""

    vcpus: Sequence[Identified]
    """Of the latest collection, those whose names are known."""
    gone: Sequence[VcpuRecord]
    """Those that vanished, and did not leave() yet."""
    complete: bool
    """False while any of its vCPUs is being looked up, or there was no collection."""


class Collection:
    """Reads the maps when it is told to; nothing before begin(). All methods may be called from any thread."""

    def __init__(self, state: State, lookup: Lookup, linger_ns: int) -> None:
        self._state = state
        self._lookup = lookup
        self._linger_ns = linger_ns
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None
        self._collector: Collector | None = None
        self._vcpu_ids = False
        self._vanished: list[VcpuRecord] = []
        self._warned: set[str] = set()
        self._survival: Survival | None = None

    def begin(
        self,
        loaded: Loaded,
        clock_ns: Callable[[], int],
        *,
        vcpu_ids: bool,
        before: LedgerState = EMPTY_STATE,
        survival: Survival | None = None,
    ) -> None:
        """Read this program's maps from now on, and own it and the ledger.

        `vcpu_ids` tells that exits carry the vCPU's index; `before` is what an earlier process wrote down.
        """
        for key, vcpu in before.names:
            self._lookup.preset(key, vcpu)
        precautions = Precautions(partial(self._write_down, always=True), survival.ledger.step) if survival else None
        with self._lock:
            self._survival = survival
            self._collector = Collector(loaded, clock_ns, self._linger_ns, before.left, precautions)
            self._loaded, self._vcpu_ids = loaded, vcpu_ids
        self.collect()

    def linger(self, linger_ns: int) -> None:
        """Serve vCPUs that end from now on for so long."""
        with self._lock:
            self._linger_ns = linger_ns
            if self._collector:
                self._collector.linger_ns = linger_ns

    def collect(self) -> None:
        """Read the maps, once at a time. A failure is logged and shows as kvm_exit_exporter_up 0."""
        with self._lock:
            if not self._collector:
                return
            started = time.monotonic()
            state = self._state
            try:
                state.snapshot = self._collector.collect()
                self._vanished += state.snapshot.vanished
            except Exception as error:  # whatever it is: say so, and try again at the next collection
                state.snapshot = None
                state.collect_errors += 1
                event(log, "error", "collection failed", err=error)
                return
            for record in state.snapshot.vcpus:
                if nameable(record, vcpu_ids=self._vcpu_ids):
                    self._lookup.submit(record.key, record.comm, record.vcpu_id)
            self._warn_of_drops(state.snapshot.counters)
            self._write_down(self._collector.retired, self._collector.freed)
            state.collect_seconds = time.monotonic() - started
            state.collections += 1

    def observed(self) -> Observed:
        """What there is to be served. Counts of vCPUs without a name are in the maps: they come with their labels."""
        with self._lock:  # both at once: no later snapshot may have what is gone
            snapshot = self._state.snapshot
            gone = tuple(self._vanished)
        complete = snapshot is not None and not self._lookup.pending
        vcpus: list[Identified] = []
        for record in snapshot.vcpus if snapshot else ():
            vcpu = self._lookup.get(record.key)
            if vcpu:
                vcpus.append((record, vcpu))
        return Observed(vcpus, gone, complete)

    def leave(self, gone: Sequence[VcpuRecord], forget: Callable[[], None]) -> None:
        """Let the first of those that vanished go, as `forget` does elsewhere: they are written down once, always."""
        with self._lock:
            forget()
            del self._vanished[: len(gone)]
            self._lookup.forget(record.key for record in gone)

    def write_down(self) -> None:
        """Write down what has changed of what the next process cannot find in the maps."""
        with self._lock:
            if self._collector:
                self._write_down(self._collector.retired, self._collector.freed)

    def settle(self) -> None:
        """Collect a last time before another process takes over: what is not given back by then would be lost."""
        for _ in range(_RECYCLE_TRIES):
            self.collect()
            snapshot = self._state.snapshot
            if snapshot is None or not snapshot.recycling_pending:
                return
            time.sleep(_RECYCLE_PAUSE)

    def close(self) -> None:
        """Free everything. The programs are detached with their last descriptor."""
        with self._lock:
            if self._collector:
                self._collector.close()
                self._collector = None
            if self._loaded:
                self._loaded.close()
            if self._survival:
                self._survival.ledger.close()

    def _write_down(self, retired: Sequence[EndedVcpu], freed: Sequence[FreeEntry], *, always: bool = False) -> None:
        survival = self._survival
        if not survival:
            return
        leaving = [(record, 0) for record in self._vanished]
        lingering = [(each.record, each.expires_ns) for each in retired]
        ended = [
            LedgerEntry(record, expires_ns, self._lookup.get(record.key), survival.served(record.key))
            for record, expires_ns in leaving + lingering
        ]
        try:
            survival.ledger.write(ended, freed, survival.bases(), always=always)
        except Exception as error:  # whatever it is: what is not written down is lost by a kill alone
            if "ledger" not in self._warned:
                self._warned.add("ledger")
                event(log, "warn", "ended vCPUs would not survive a kill of this process", err=error)

    def _warn_of_drops(self, counters: Mapping[str, int]) -> None:
        """Say it once when a counter of what is lost first moves."""
        for name, value in counters.items():
            if value and name.startswith("dropped_") and name not in self._warned:
                self._warned.add(name)
                cause = name.replace("dropped_", "").replace("userspace_", "")
                counted = name.replace(cause, "exits_total")
                event(
                    log,
                    "warn",
                    "exits are being dropped",
                    cause=cause,
                    counted_in=f"kvm_exit_exporter_{counted}",
                    remedy=_DROP_REMEDIES[cause],
                )
