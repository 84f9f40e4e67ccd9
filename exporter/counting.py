"""The program as it counts: its collector, and the threads that it has seen, with their names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from exporter.handover import Ended
from exporter.logs import event
from exporter.metrics import Identified
from exporter.program import Loaded
from exporter.records import ThreadKey, VcpuRecord
from exporter.selfmetrics import State
from exporter.snapshot import Collector, Retired
from exporter.vms import Lookup, Vcpu
from exporter.vms.vcpu import nameable

log = logging.getLogger(__name__)

_RECYCLE_TRIES, _RECYCLE_PAUSE = 50, 0.01
_DROP_REMEDIES = {
    "no_slot": "raise limits.vcpus and restart",
    "no_cell": "raise limits.cells and restart",
    "chain_full": "none: a vCPU has more than eight reasons of one hash; please report it",
}


class Counting:
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
        self._pass_on: Callable[[Ended], None] | None = None
        self._passed_on: list[tuple[ThreadKey, Vcpu | None]] | None = None

    def begin(
        self,
        loaded: Loaded,
        clock_ns: Callable[[], int],
        *,
        vcpu_ids: bool,
        ended: Ended = (),
        pass_on: Callable[[Ended], None] | None = None,
    ) -> None:
        """Read this program's maps from now on, and own it.

        `vcpu_ids` tells that exits carry the vCPU's index; `ended` are vCPUs that an earlier process has copied out.
        `pass_on` is given all that ended and are still served whenever they change: they are in no map any more.
        """
        for retired, vcpu in ended:
            if vcpu:
                self._lookup.know(retired.record.key, vcpu)
        collector = Collector(loaded, clock_ns, self._linger_ns, [retired for retired, _ in ended])
        with self._lock:
            self._loaded, self._collector, self._vcpu_ids = loaded, collector, vcpu_ids
            self._pass_on = pass_on
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
            except Exception as error:  # whatever it is: say so, and try again at the next collection
                state.snapshot = None
                state.collect_errors += 1
                event(log, "error", "collection failed", err=error)
                return
            self._pass_ended_on(self._collector.retired)
            for record in state.snapshot.vcpus:
                if nameable(record, vcpu_ids=self._vcpu_ids):
                    self._lookup.submit(record.key, record.comm, record.vcpu_id)
            self._warn_of_drops(state.snapshot.counters)
            self._lookup.forget(record.key for record in state.snapshot.vanished)
            self._vanished += state.snapshot.vanished
            state.collect_seconds = time.monotonic() - started
            state.collections += 1

    def observed(self) -> tuple[Sequence[Identified], Sequence[VcpuRecord]]:
        """The vCPUs of the latest collection whose names are known, and those that vanished since the last call.

        Counts of the others are in the maps: they come as soon as their labels are known.
        """
        with self._lock:  # both at once: no later snapshot may have what is gone
            snapshot = self._state.snapshot
            gone, self._vanished = self._vanished, []
        vcpus: list[Identified] = []
        for record in snapshot.vcpus if snapshot else ():
            vcpu = self._lookup.get(record.key)
            if vcpu:
                vcpus.append((record, vcpu))
        return vcpus, gone

    def vanished(self) -> Sequence[VcpuRecord]:
        """The vCPUs that vanished since this or observed() was last called."""
        with self._lock:
            gone, self._vanished = self._vanished, []
        return gone

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

    def _pass_ended_on(self, retired: Sequence[Retired]) -> None:
        if not self._pass_on:
            return
        ended = [(one, self._lookup.get(one.record.key)) for one in retired]
        known = [(one.record.key, vcpu) for one, vcpu in ended]
        if known != self._passed_on:
            self._passed_on = known
            self._pass_on(ended)

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
