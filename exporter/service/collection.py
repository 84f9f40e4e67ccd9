"""The collection: reads the maps when it is told to, and knows which vCPUs have names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from exporter.collect.collector import Collector, Journal
from exporter.common.logs import event
from exporter.metrics.carried import CarriedOver
from exporter.metrics.kvm import Identified
from exporter.metrics.own import PREFIX, CollectionStatus
from exporter.model.drops import newly_dropped
from exporter.model.records import EndedVcpu, FreeEntry, Snapshot, ThreadKey, VcpuRecord
from exporter.readings.observer import Observer
from exporter.service.attach import Attached
from exporter.service.ledger import LedgerEntry

log = logging.getLogger(__name__)

_RECYCLE_TRIES, _RECYCLE_PAUSE = 50, 0.01


class Observed(NamedTuple):
    """The collection at one moment. No later snapshot has the vanished vCPUs."""

    vcpus: Sequence[Identified] = ()
    """The vCPUs of the latest snapshot whose names are known."""
    vanished: Sequence[VcpuRecord] = ()
    """vCPUs that vanished from the snapshots, and that forget() was not called for yet."""
    complete: bool = False
    """False while a vCPU is being looked up, and without a snapshot."""


class Collected(Protocol):
    """The collection as the scraper sees it."""

    status: CollectionStatus

    def collect(self) -> None:
        """Read the maps."""

    def observed(self) -> Observed:
        """Return the latest snapshot with names."""

    def forget(self, vanished: Sequence[VcpuRecord], elsewhere: Callable[[], None]) -> None:
        """Forget the first of the vanished vCPUs."""

    def write_down(self) -> None:
        """Write the ledger."""

    def set_linger(self, linger_ns: int) -> None:
        """Serve vCPUs that end from now on for this time."""


class NothingCollected:
    """The collection before a program is attached: it has no snapshot."""

    status = CollectionStatus()

    def collect(self) -> None:
        """There is nothing to read."""

    def observed(self) -> Observed:
        """No vCPU."""
        return Observed()

    def forget(self, vanished: Sequence[VcpuRecord], elsewhere: Callable[[], None]) -> None:
        """No vCPU can vanish."""

    def write_down(self) -> None:
        """There is nothing to write."""

    def set_linger(self, linger_ns: int) -> None:
        """The collection gets its linger time when it begins."""


class Served(NamedTuple):
    """The scraper's part of the ledger."""

    sums: Callable[[ThreadKey], tuple[int, int]]
    """The exits, and the exits to the VMM, that pages had of an ended thread."""
    carried_over: Callable[[], CarriedOver]


class Collection:
    """Reads the maps of an attached program, which it owns with its ledger. Any thread may call its methods."""

    def __init__(self, attached: Attached, observer: Observer, linger_ns: int, served: Served) -> None:
        """Go on from what an earlier process left, and collect once. Raises OSError, ValueError, KeyError.

        After an error the caller still owns the program and the ledger.
        """
        self.status = CollectionStatus()
        self._attached = attached
        self._observer = observer
        self._lookup = observer.lookup
        self._served = served
        self._lock = threading.Lock()
        self._vanished: list[VcpuRecord] = []
        self._known_drops: set[str] = set()
        self._ledger_failed = False
        for key, vcpu in attached.before.names:
            self._lookup.preset(key, vcpu)
        ledger = attached.ledger
        journal = Journal(partial(self._write_ledger, always=True), ledger.step) if ledger else None
        self._collector = Collector(attached.loaded, attached.clock_ns, linger_ns, attached.before.handover, journal)
        self.collect()

    def set_linger(self, linger_ns: int) -> None:
        """Serve vCPUs that end from now on for this time."""
        with self._lock:
            self._collector.linger_ns = linger_ns

    def collect(self) -> None:
        """Read the maps, one thread at a time. A failure is logged, and shows as kvm_exit_exporter_up 0."""
        with self._lock:
            started = time.monotonic()
            before = self.status
            try:
                snapshot = self._collector.collect()
            except Exception as error:  # whatever fails: the next collection tries again
                self.status = CollectionStatus(None, before.seconds, before.collections, before.errors + 1)
                event(log, "error", "collection failed", err=error)
                return
            self._vanished += snapshot.vanished
            # The snapshot must be visible before the lookups, which observed() compares it with.
            self.status = CollectionStatus(snapshot, before.seconds, before.collections, before.errors)
            self._observer.look_up(snapshot)
            self._log_new_drops(snapshot)
            self._write_ledger(self._collector.ended, self._collector.free_entries)
            seconds = time.monotonic() - started
            self.status = CollectionStatus(snapshot, seconds, before.collections + 1, before.errors)

    def observed(self) -> Observed:
        """Return the latest snapshot with names.

        Counts of a vCPU without a name stay in the maps: they are served as soon as it has its name.
        """
        with self._lock:  # both together: no later snapshot may have what vanished
            snapshot = self.status.snapshot
            vanished = tuple(self._vanished)
        complete = snapshot is not None and not self._lookup.pending
        vcpus: list[Identified] = []
        for record in snapshot.vcpus if snapshot else ():
            vcpu = self._lookup.get(record.key)
            if vcpu:
                vcpus.append((record, vcpu))
        return Observed(vcpus, vanished, complete)

    def forget(self, vanished: Sequence[VcpuRecord], elsewhere: Callable[[], None]) -> None:
        """Forget the first of the vanished vCPUs; `elsewhere` forgets them in the metrics.

        Both under the lock, so that the ledger has each vCPU once at every moment.
        """
        with self._lock:
            elsewhere()
            del self._vanished[: len(vanished)]
            self._lookup.forget(record.key for record in vanished)

    def write_down(self) -> None:
        """Write the ledger if its content changed."""
        with self._lock:
            self._write_ledger(self._collector.ended, self._collector.free_entries)

    def recycle(self) -> None:
        """Collect until every free slot and cell is returned to the kernel, for half a second at most.

        For the end of a process whose program counts on: the next process cannot find the entries in the maps.
        """
        for _ in range(_RECYCLE_TRIES):
            self.collect()
            snapshot = self.status.snapshot
            if snapshot is None or not snapshot.recycling_pending:
                return
            time.sleep(_RECYCLE_PAUSE)

    def close(self) -> None:
        """Free everything. The program is detached with its last descriptor, and systemd may hold one."""
        with self._lock:
            self._collector.close()
            self._attached.loaded.close()
            if self._attached.ledger:
                self._attached.ledger.close()

    def _log_new_drops(self, snapshot: Snapshot) -> None:
        for drop, metric in newly_dropped(snapshot.counters, self._known_drops):
            event(
                log,
                "warn",
                "exits are being dropped",
                cause=drop.cause,
                counted_in=PREFIX + metric,
                remedy=drop.remedy,
            )

    def _write_ledger(
        self, ended: Sequence[EndedVcpu], free_entries: Sequence[FreeEntry], *, always: bool = False
    ) -> None:
        ledger = self._attached.ledger
        if not ledger:
            return
        vanished = [(record, 0) for record in self._vanished]
        lingering = [(each.record, each.expires_ns) for each in ended]
        entries = [
            LedgerEntry(record, expires_ns, self._lookup.get(record.key), self._served.sums(record.key))
            for record, expires_ns in vanished + lingering
        ]
        try:
            ledger.write(entries, free_entries, self._served.carried_over(), always=always)
        except Exception as error:  # whatever fails: only a kill of this process would now lose counts
            if not self._ledger_failed:
                self._ledger_failed = True
                event(log, "warn", "ended vCPUs would not survive a kill of this process", err=error)
