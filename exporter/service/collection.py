"""The collection reads the maps on request, and knows which vCPUs have names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from exporter.collect.collector import Collector, Journal
from exporter.collect.schedstat import Schedstat
from exporter.common.logs import event
from exporter.metrics.carried import CarriedOver
from exporter.metrics.kvm import Identified
from exporter.metrics.labelled import PREFIX
from exporter.metrics.own import CollectionStatus
from exporter.model.drops import newly_dropped
from exporter.model.records import EndedVcpu, FreeEntry, Snapshot, ThreadKey, VcpuRecord
from exporter.readings.observer import Observer
from exporter.service.attach import Attached
from exporter.service.dropped import DroppedVms
from exporter.service.ledger import LedgerEntry

log = logging.getLogger(__name__)

_RECYCLE_TRIES, _RECYCLE_PAUSE = 50, 0.01


class Observed(NamedTuple):
    """The collection at one moment. No later snapshot has the vanished vCPUs."""

    vcpus: Sequence[Identified] = ()
    """The vCPUs of the latest snapshot whose names are known."""
    vanished: Sequence[VcpuRecord] = ()
    """vCPUs that vanished from the snapshots, until forget() is called for them."""
    complete: bool = False
    """True if there is a snapshot and no vCPU is being looked up."""


class Collected(Protocol):
    """The methods of a collection that the scraper uses."""

    status: CollectionStatus

    def collect(self) -> None:
        """Read the maps."""

    def observed(self) -> Observed:
        """Return the vCPUs of the latest snapshot whose names are known, and the vanished ones."""

    def forget(self, vanished: Sequence[VcpuRecord], in_metrics: Callable[[], None]) -> None:
        """Forget these vanished vCPUs, which must be the oldest ones. `in_metrics` forgets them in the metrics."""

    def write_down(self) -> None:
        """Write the ledger."""

    def set_linger(self, linger_ns: int) -> None:
        """Set how long ended vCPUs are served. It applies to vCPUs that end from now on."""


class NothingCollected:
    """The collection before a program is attached. It has no snapshot."""

    status = CollectionStatus()

    def collect(self) -> None:
        """Do nothing: there are no maps."""

    def observed(self) -> Observed:
        """Return no vCPU."""
        return Observed()

    def forget(self, vanished: Sequence[VcpuRecord], in_metrics: Callable[[], None]) -> None:
        """Do nothing: no vCPU can vanish."""

    def write_down(self) -> None:
        """Do nothing: there is no ledger."""

    def set_linger(self, linger_ns: int) -> None:
        """Do nothing: a collection gets its linger time when it is made."""


class Served(NamedTuple):
    """The parts of the ledger that the scraper knows."""

    sums: Callable[[ThreadKey], tuple[int, int]]
    """Returns how many exits, and exits to the VMM, of an ended thread were on a page."""
    carried_over: Callable[[], CarriedOver]


class Collection:
    """Reads the maps of an attached program. Owns the program and its ledger. Any thread may call its methods."""

    def __init__(
        self,
        attached: Attached,
        observer: Observer,
        linger_ns: int,
        served: Served,
        *,
        proc: Path,
        schedstat: Schedstat | None = None,
    ) -> None:
        """Continue from the state of an earlier process, and collect once. Raises OSError, ValueError, KeyError.

        After an error the caller still owns the program and the ledger.
        """
        self.status = CollectionStatus()
        self._attached = attached
        self._observer = observer
        self._lookup = observer.lookup
        self._served = served
        self._lock = threading.Lock()
        self._dropped = DroppedVms(observer.lookup)
        self._vanished: list[VcpuRecord] = []
        self._known_drops: set[str] = set()
        self._known_missed_ends = 0
        self._ledger_failed = False
        for key, vcpu in attached.before.names:
            self._lookup.preset(key, vcpu)
        ledger = attached.ledger
        journal = Journal(partial(self._write_ledger, always=True), ledger.step) if ledger else None
        before = attached.before.handover
        self._collector = Collector(
            attached.loaded, attached.clock_ns, linger_ns, before, journal, proc=proc, schedstat=schedstat
        )
        self.collect()

    def set_linger(self, linger_ns: int) -> None:
        """Set how long ended vCPUs are served. It applies to vCPUs that end from now on."""
        with self._lock:
            self._collector.linger_ns = linger_ns

    def collect(self) -> None:
        """Read the maps; only one thread does so at a time. A failure is logged, and kvm_exit_exporter_up is then 0."""
        with self._lock:
            started = time.monotonic()
            before = self.status
            try:
                snapshot = self._collector.collect()
            except Exception as error:  # whatever the error is, the next collection tries again
                self.status = CollectionStatus(None, before.seconds, before.collections, before.errors + 1)
                event(log, "error", "collection failed", err=error)
                return
            self._vanished += snapshot.vanished
            # observed() compares the snapshot with the lookups, so the snapshot must be visible first.
            self.status = replace(before, snapshot=snapshot)
            self._observer.look_up(snapshot)
            dropped = self._dropped.named(snapshot.drops)
            self._log_new_drops(snapshot)
            self._log_missed_ends(snapshot)
            self._write_ledger(self._collector.ended, self._collector.free_entries)
            seconds = time.monotonic() - started
            self.status = CollectionStatus(snapshot, seconds, before.collections + 1, before.errors, dropped)

    def observed(self) -> Observed:
        """Return the vCPUs of the latest snapshot whose names are known, and the vanished ones.

        Counts of a vCPU without a name stay in the maps. They are served as soon as the vCPU has its name.
        """
        with self._lock:  # both are read at the same moment: the snapshot must not have the vanished vCPUs
            snapshot = self.status.snapshot
            vanished = tuple(self._vanished)
        complete = snapshot is not None and not self._lookup.pending
        vcpus: list[Identified] = []
        for record in snapshot.vcpus if snapshot else ():
            vcpu = self._lookup.get(record.key)
            if vcpu:
                vcpus.append((record, vcpu))
        return Observed(vcpus, vanished, complete)

    def forget(self, vanished: Sequence[VcpuRecord], in_metrics: Callable[[], None]) -> None:
        """Forget these vanished vCPUs, which must be the oldest ones. `in_metrics` forgets them in the metrics.

        Both happen under the lock, so that the ledger has each vCPU exactly once at every moment.
        """
        with self._lock:
            in_metrics()
            del self._vanished[: len(vanished)]
            self._lookup.forget(record.key for record in vanished)

    def write_down(self) -> None:
        """Write the ledger if its content changed."""
        with self._lock:
            self._write_ledger(self._collector.ended, self._collector.free_entries)

    def recycle(self) -> None:
        """Collect until every free slot and cell is returned to the kernel, for at most half a second.

        This is called at the end of a process whose program goes on counting, because the maps do not show which
        entries must still be returned.
        """
        for _ in range(_RECYCLE_TRIES):
            self.collect()
            snapshot = self.status.snapshot
            if snapshot is None or not snapshot.recycling_pending:
                return
            time.sleep(_RECYCLE_PAUSE)

    def close(self) -> None:
        """Free everything. The program is detached when its last descriptor is closed; systemd may have one."""
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

    def _log_missed_ends(self, snapshot: Snapshot) -> None:
        missed = snapshot.missed_ends - self._known_missed_ends
        if missed:
            self._known_missed_ends = snapshot.missed_ends
            event(
                log,
                "warn",
                "the kernel skipped the end of vCPU threads; /proc shows that they have ended",
                threads=missed,
                counted_in=PREFIX + "bpf_missed_runs_total",
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
        except Exception as error:  # whatever the error is, only a kill of this process would now lose counts
            if not self._ledger_failed:
                self._ledger_failed = True
                event(log, "warn", "ended vCPUs would not survive a kill of this process", err=error)
