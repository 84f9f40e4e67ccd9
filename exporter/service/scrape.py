"""The scraper makes the metrics page from the latest collection."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from prometheus_client import CollectorRegistry

from exporter.config.options import Config
from exporter.metrics.carried import NOTHING_CARRIED, CarriedOver
from exporter.metrics.exposition.page import Exposition, MetricsPage
from exporter.metrics.families import HistogramFamily
from exporter.metrics.kvm import Metrics
from exporter.metrics.own import ScrapeStatus
from exporter.metrics.series import ReasonFilter
from exporter.model.records import Cell, ThreadKey, VcpuRecord, exit_sums
from exporter.naming.lookup import Lookup
from exporter.naming.reasons import ReasonNames
from exporter.service.collection import Collected, NothingCollected
from exporter.service.ledger import EMPTY_STATE, LedgerState

_WAIT_SECONDS = 0.25
"""How long a scrape waits for the names of VMs that it sees for the first time. Later scrapes do not wait."""

_TAKEOVER_WAIT_SECONDS = 6.0
"""The same time after a takeover: a VM's sum must not lack a vCPU that it had before. The lookup gives up earlier."""


class Scraper:
    """Makes one page at a time, because concurrent scrapes share caches, and would render the same series twice."""

    def __init__(self, config: Config, lookup: Lookup, registry: CollectorRegistry) -> None:
        """Serve the `registry`. No vCPU is served before use()."""
        self.status = ScrapeStatus()
        self._lookup = lookup
        self._registry = registry
        self._lock = threading.Lock()
        self._collection: Collected = NothingCollected()
        self._reasons = ReasonNames()
        self._served: dict[ThreadKey, tuple[Sequence[Cell], tuple[int, int]]] = {}
        """By ended thread: its last cells in the metrics, and their numbers of exits and of exits to the VMM."""
        self._served_before: dict[ThreadKey, tuple[int, int]] = {}
        """The same numbers from pages of an earlier process, for ended threads that were on no page of this process."""
        self._taking_over = False
        self._metrics = self._new_metrics(config)
        self._carried = NOTHING_CARRIED
        self._exposition = Exposition(config.histogram, registry, gzip=config.web.gzip)

    @property
    def taking_over(self) -> bool:
        """True until the metrics have every thread that an earlier process served."""
        return self._taking_over

    @property
    def reasons(self) -> ReasonNames:
        """The names of exit reasons in use."""
        return self._reasons

    def set_reasons(
        self, reasons: ReasonNames, config: Config, before: LedgerState = EMPTY_STATE, *, takeover: bool = False
    ) -> None:
        """Set the names of reasons, and after a takeover the state of the earlier process. Call it before use()."""
        with self._lock:
            self._reasons = reasons
            self._carried = before.carried
            self._metrics = self._new_metrics(config, self._carried)
            self._served_before = dict(before.served)
            self._taking_over = takeover

    def use(self, collection: Collected) -> None:
        """Serve this collection."""
        with self._lock:
            self._collection = collection

    def reconfigure(self, config: Config) -> None:
        """Serve the series of this configuration. A series that existed before continues from its value."""
        with self._lock:
            self._collection.set_linger(round(config.linger * 1e9))
            self._collection.collect()
            vcpus, vanished, _ = self._collection.observed()
            self._metrics.update(vcpus, ())
            self._forget(vanished)
            fresh = self._new_metrics(config, self._carried)
            fresh.update(vcpus, ())
            fresh.continue_from(self._metrics)
            self._metrics, self._carried = fresh, fresh.carried_over()
            self._exposition = Exposition(config.histogram, self._registry, gzip=config.web.gzip)
            self._collection.write_down()

    def page(self, accept: str, accept_encoding: str) -> MetricsPage:
        """Collect, and render the page for a scrape with these headers."""
        self._collection.collect()
        self._lookup.wait_known(_TAKEOVER_WAIT_SECONDS if self._taking_over else _WAIT_SECONDS)
        with self._lock:
            pending = self._lookup.pending
            # This snapshot may be newer than the collection of this scrape.
            vcpus, vanished, complete = self._collection.observed()
            self._metrics.update(vcpus, ())
            self._forget_vanished(vanished, complete)
            for record, _ in vcpus if self._served_before else ():
                self._served_before.pop(record.key, None)
            families = self._metrics.families(vcpus)
            histograms = sum(len(family.series) for family in families if isinstance(family, HistogramFamily))
            self.status = replace(self.status, lookups_pending=pending, served_histograms=histograms)
            return self._exposition.page(families, accept, accept_encoding)

    def tidy(self) -> None:
        """Forget the vanished vCPUs. Otherwise they would fill the memory while no scrape comes."""
        with self._lock:
            vcpus, vanished, complete = self._collection.observed()
            if self._taking_over and self._sums_over_threads:
                self._metrics.update(vcpus, ())
            self._forget_vanished(vanished, complete)

    def served(self, key: ThreadKey) -> tuple[int, int]:
        """Return how many exits, and exits to the VMM, of an ended thread were on a page. Needs no lock."""
        before = self._served_before.get(key)
        if before is not None:
            return before
        cells = self._metrics.seen(key)
        known = self._served.get(key)
        if not known or known[0] is not cells:
            known = self._served[key] = (cells, exit_sums(cells))
        return known[1]

    def carried_over(self) -> CarriedOver:
        """Return the counts that series carry over from ended threads. Needs no lock."""
        return self._carried

    def _forget_in_metrics(self, keys: Sequence[ThreadKey]) -> None:
        self._metrics.update((), keys)
        self._carried = self._metrics.carried_over()

    def _forget(self, vanished: Sequence[VcpuRecord]) -> None:
        """Forget threads that no later snapshot has. Exits that were on no page are counted as unserved."""
        if not vanished:
            return
        if self._taking_over and self._sums_over_threads:
            named = [(record, self._lookup.get(record.key)) for record in vanished]
            self._metrics.update([(record, vcpu) for record, vcpu in named if vcpu], ())
        unserved, unserved_userspace = self.status.unserved_exits, self.status.unserved_userspace_exits
        for record in vanished:
            (exits, userspace), (served, served_userspace) = exit_sums(record.cells), self.served(record.key)
            unserved += exits - served
            unserved_userspace += userspace - served_userspace
        self.status = replace(self.status, unserved_exits=unserved, unserved_userspace_exits=unserved_userspace)
        keys = [record.key for record in vanished]
        self._collection.forget(vanished, partial(self._forget_in_metrics, keys))
        for key in keys:
            self._served.pop(key, None)
            self._served_before.pop(key, None)

    def _forget_vanished(self, vanished: Sequence[VcpuRecord], complete: bool) -> None:
        """Forget the vanished vCPUs. After a takeover, wait for the names of all vCPUs, so that sums are complete."""
        if self._taking_over and not complete:
            return
        self._forget(vanished)
        if self._taking_over:
            self._taking_over = False
            self._metrics.drop_unmatched()
            self._carried = self._metrics.carried_over()

    def _new_metrics(self, config: Config, carried: CarriedOver = NOTHING_CARRIED) -> Metrics:
        # True if series are sums over threads. A sum must include every ended thread, even if no scrape saw the thread.
        self._sums_over_threads = "vm" in (config.level.counters, config.level.histograms)
        return Metrics(ReasonFilter(self._reasons.lookup, config.reasons), config.level, carried)
