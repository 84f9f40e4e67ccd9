"""From what is counted to the page that a scraper asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from exporter import document, overview
from exporter.config import Config
from exporter.counting import Counting
from exporter.document import Reading
from exporter.exposition.buckets import Classic
from exporter.exposition.page import Exposition, Page, Shape
from exporter.metrics import Detail, Metrics
from exporter.reasons import Reasons
from exporter.records import VcpuRecord
from exporter.selfmetrics import State
from exporter.series import Reasons as ShownReasons
from exporter.vms import Lookup

_SETTLE_SECONDS = 0.25
"""How long a scrape waits for the names of VMs it sees for the first time. Later ones wait for nobody."""


class Pages:
    """Makes one page at a time: the caches are shared, and two scrapes at once would format the same twice."""

    def __init__(
        self, config: Config, counting: Counting, lookup: Lookup, state: State, registry: CollectorRegistry
    ) -> None:
        self._counting = counting
        self._lookup = lookup
        self._state = state
        self._registry = registry
        self._lock = threading.Lock()
        self._reasons = Reasons()
        self._metrics = self._new_metrics(config)
        self._exposition = Exposition(_shape(config), registry)

    def name(self, reasons: Reasons, config: Config) -> None:
        """Take the names of reasons from here; before anything is counted."""
        with self._lock:
            self._reasons = reasons
            self._metrics = self._new_metrics(config)

    def reconfigure(self, config: Config) -> None:
        """Serve what this configuration asks for. A series that stays goes on from its value."""
        with self._lock:
            self._counting.collect()
            vcpus, gone = self._counting.observed()
            self._metrics.update(vcpus, ())
            self._forget(gone)
            fresh = self._new_metrics(config)
            fresh.update(vcpus, ())
            fresh.go_on_from(self._metrics)
            self._metrics = fresh
            self._exposition = Exposition(_shape(config), self._registry)

    def render(self, accept: str, accept_encoding: str) -> Page:
        """Collect, and render the page for a scraper that sent these headers."""
        self._counting.collect()
        self._lookup.settle(_SETTLE_SECONDS)
        with self._lock:
            self._state.lookups_pending = self._lookup.pending
            vcpus, gone = self._counting.observed()  # may be newer than our own collection: that is only better
            self._metrics.update(vcpus, ())
            self._forget(gone)
            return self._exposition.page(self._metrics.families(vcpus), accept, accept_encoding)

    def document(self) -> bytes:
        """Collect, and make the JSON document of all vCPUs."""
        return document.encode(self._reading())

    def look(self) -> overview.Look:
        """Collect, and say what the page for a browser is made of."""
        reading, state = self._reading(), self._state
        health = overview.Health(state.snapshot is not None, state.collect_errors, self._lookup.pending)
        return overview.Look(reading, health)

    def _reading(self) -> Reading:
        """All vCPUs with their names. Without a collection there are none, counted since 0."""
        self._counting.collect()
        self._lookup.settle(_SETTLE_SECONDS)
        snapshot, replay = self._state.snapshot, self._state.replay
        if snapshot is None:
            return document.nothing(0, replay=replay)
        since_ns, name = self._state.counting_since_ns, self._reasons.lookup
        return document.reading(snapshot, self._lookup.get, name, since_ns=since_ns, replay=replay)

    def tidy(self) -> None:
        """Let go of what no later page has: where nobody scrapes, it would pile up."""
        with self._lock:
            self._forget(self._counting.vanished())

    def _forget(self, gone: Sequence[VcpuRecord]) -> None:
        """Let threads go that no later snapshot has; what no page had of them is counted as that."""
        for record in gone:
            exits, userspace = self._metrics.unserved(record)
            self._state.unserved_exits += exits
            self._state.unserved_userspace_exits += userspace
        self._metrics.update((), [record.key for record in gone])

    def _new_metrics(self, config: Config) -> Metrics:
        shown = ShownReasons(self._reasons.lookup, config.reasons.allow, config.reasons.deny)
        return Metrics(shown, Detail(config.level.counters, config.level.histograms))


def _shape(config: Config) -> Shape:
    classic = config.histogram.classic
    return Shape(
        Classic.of(classic.factor, classic.min, classic.max),
        config.histogram.native,
        classic.in_protobuf,
        config.web.gzip,
    )
