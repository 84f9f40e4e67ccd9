"""From what is counted to the page that a scraper asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry

from exporter.config.options import Config
from exporter.metrics.exposition.buckets import ClassicBounds
from exporter.metrics.exposition.page import Exposition, MetricsPage, Shape
from exporter.metrics.kvm import Detail, Metrics
from exporter.metrics.own import State
from exporter.metrics.series import NOTHING_CARRIED, CarriedOver, sums
from exporter.metrics.series import ReasonFilter as ShownReasons
from exporter.model.records import Cell, ThreadKey, VcpuRecord
from exporter.naming.lookup import Lookup
from exporter.naming.reasons import ReasonNames
from exporter.page.page import PageData
from exporter.page.view import Health
from exporter.readings import reading as document
from exporter.readings.reading import Reading
from exporter.service.collection import Collection
from exporter.service.ledger import LedgerState

_SETTLE_SECONDS = 0.25
"""How long a scrape waits for the names of VMs it sees for the first time. Later ones wait for nobody."""

_TAKEOVER_SECONDS = 6.0
"""The same right after a takeover, when a VM's sum must not lack a vCPU that it had. Lookup gives up before."""


class Scraper:
    """Makes one page at a time: the caches are shared, and two scrapes at once would format the same twice."""

    def __init__(
        self, config: Config, counting: Collection, lookup: Lookup, state: State, registry: CollectorRegistry
    ) -> None:
        self._counting = counting
        self._lookup = lookup
        self._state = state
        self._registry = registry
        self._lock = threading.Lock()
        self._reasons = ReasonNames()
        self._served: dict[ThreadKey, tuple[Sequence[Cell], tuple[int, int]]] = {}
        """Of threads that ended: their cells as the metrics last had them, and the sums of those."""
        self._before: dict[ThreadKey, tuple[int, int]] = {}
        """Of threads that ended in an earlier process' time and are on no page of ours: the sums its pages had."""
        self._going_on = False
        """True until the metrics have all that an earlier process served."""
        self._metrics = self._new_metrics(config)
        self._bases = NOTHING_CARRIED
        self._exposition = Exposition(_shape(config), registry)

    def set_reasons(self, reasons: ReasonNames, config: Config, before: LedgerState | None = None) -> None:
        """Take the names of reasons from here; before anything is counted.

        `before` is what an earlier process wrote down, if there was one that counted in the same maps.
        """
        with self._lock:
            self._reasons = reasons
            self._bases = before.bases if before else NOTHING_CARRIED
            self._metrics = self._new_metrics(config, self._bases)
            self._before = dict(before.served) if before else {}
            self._going_on = before is not None

    def reconfigure(self, config: Config) -> None:
        """Serve what this configuration asks for. A series that stays goes on from its value."""
        with self._lock:
            self._counting.collect()
            vcpus, gone, _ = self._counting.observed()
            self._metrics.update(vcpus, ())
            self._forget(gone)
            fresh = self._new_metrics(config, self._bases)
            fresh.update(vcpus, ())
            fresh.continue_from(self._metrics)
            self._metrics, self._bases = fresh, fresh.bases()
            self._exposition = Exposition(_shape(config), self._registry)
            self._counting.write_down()

    def render(self, accept: str, accept_encoding: str) -> MetricsPage:
        """Collect, and render the page for a scraper that sent these headers."""
        self._counting.collect()
        self._lookup.wait_known(_TAKEOVER_SECONDS if self._going_on else _SETTLE_SECONDS)
        with self._lock:
            self._state.lookups_pending = self._lookup.pending
            vcpus, gone, complete = self._counting.observed()  # perhaps newer than our own collection: the better
            self._metrics.update(vcpus, ())
            self._let_go(gone, complete)
            for record, _ in vcpus if self._before else ():
                self._before.pop(record.key, None)
            return self._exposition.page(self._metrics.families(vcpus), accept, accept_encoding)

    def document(self) -> bytes:
        """Collect, and make the JSON document of all vCPUs."""
        return document.encode(self._reading())

    def look(self) -> PageData:
        """Collect, and say what the page for a browser is made of."""
        reading, state = self._reading(), self._state
        health = Health(state.snapshot is not None, state.collect_errors, self._lookup.pending)
        return PageData(reading, health)

    def _reading(self) -> Reading:
        """All vCPUs with their names. Without a collection there are none, counted since 0."""
        self._counting.collect()
        self._lookup.wait_known(_SETTLE_SECONDS)
        snapshot, replay = self._state.snapshot, self._state.replay
        if snapshot is None:
            return document.nothing(0, replay=replay)
        since_ns, name = self._state.counting_since_ns, self._reasons.lookup
        return document.reading(snapshot, self._lookup.get, name, since_ns=since_ns, replay=replay)

    def tidy(self) -> None:
        """Let go of what no later page has: where nobody scrapes, it would pile up."""
        with self._lock:
            vcpus, gone, complete = self._counting.observed()
            if self._going_on and self._sums:
                self._metrics.update(vcpus, ())
            self._let_go(gone, complete)

    def served(self, key: ThreadKey) -> tuple[int, int]:
        """Exits, and those to the VMM, that pages had of a thread that ended. Needs no lock."""
        before = self._before.get(key)
        if before is not None:
            return before
        cells = self._metrics.seen(key)
        known = self._served.get(key)
        if not known or known[0] is not cells:
            known = self._served[key] = (cells, sums(cells))
        return known[1]

    def bases(self) -> CarriedOver:
        """What series hold besides the threads that there are. Needs no lock."""
        return self._bases

    def _drop(self, keys: Sequence[ThreadKey]) -> None:
        self._metrics.update((), keys)
        self._bases = self._metrics.bases()

    def _forget(self, gone: Sequence[VcpuRecord]) -> None:
        """Let threads go that no later snapshot has; what no page had of them is counted as that."""
        if not gone:
            return
        if self._going_on and self._sums:
            named = [(record, self._lookup.get(record.key)) for record in gone]
            self._metrics.update([(record, vcpu) for record, vcpu in named if vcpu], ())
        for record in gone:
            (exits, userspace), (served, served_userspace) = sums(record.cells), self.served(record.key)
            self._state.unserved_exits += exits - served
            self._state.unserved_userspace_exits += userspace - served_userspace
        self._counting.leave(gone, partial(self._drop, [record.key for record in gone]))
        for record in gone:
            self._served.pop(record.key, None)
            self._before.pop(record.key, None)

    def _let_go(self, gone: Sequence[VcpuRecord], complete: bool) -> None:
        """Forget what is gone: after a takeover when every vCPU has its name, for only then is a VM's series whole."""
        if self._going_on and not complete:
            return
        self._forget(gone)
        if self._going_on:
            self._going_on = False
            self._metrics.drop_unmatched()
            self._bases = self._metrics.bases()

    def _new_metrics(self, config: Config, bases: CarriedOver = NOTHING_CARRIED) -> Metrics:
        # Series that are sums over threads: one that is gone must have been in them, page or not.
        self._sums = "vm" in (config.level.counters, config.level.histograms)
        shown = ShownReasons(self._reasons.lookup, config.reasons.allow, config.reasons.deny)
        return Metrics(shown, Detail(config.level.counters, config.level.histograms), bases)


def _shape(config: Config) -> Shape:
    classic = config.histogram.classic
    return Shape(
        ClassicBounds.of(classic.factor, classic.min, classic.max),
        config.histogram.native,
        classic.in_protobuf,
        config.web.gzip,
    )
