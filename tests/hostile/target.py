"""The target of the attacks: an exporter in a process of its own, with every path that the daemon serves.

Its collection is made up: as many vCPUs and reasons as the default limits allow, and all of them change all the time.
So it needs no BPF, no privilege and no VM.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from exporter.config.options import Config, Limits
from exporter.metrics import own
from exporter.metrics.kvm import Identified
from exporter.metrics.own import CollectionStatus, OwnStatus
from exporter.model.buckets import BUCKETS
from exporter.model.reason import Space
from exporter.model.records import Cell, RunStats, Snapshot, ThreadKey, VcpuRecord, VcpuTotals
from exporter.model.vm import Vcpu, Vm
from exporter.naming.lookup import Lookup
from exporter.naming.reasons import ReasonNames
from exporter.page.page import HtmlPage
from exporter.readings.observer import Observer
from exporter.service import process
from exporter.service.collection import Observed
from exporter.service.routes import routes
from exporter.service.scrape import Scraper
from exporter.service.viewer import Viewer
from exporter.web.server import WebServer
from exporter.web.watched import WatchedSettings
from tests.support.own_metrics import COUNTERS, PROGRAMS

LIMITS = Limits()
VCPUS_OF_A_VM = 16
_FIRST_BUCKET, _FILLED = 40, 12  # one exit reason fills about three octaves


class FullCollection:
    """A collection without a program: every slot and every cell is in use, and each collection changes all of them."""

    def __init__(self) -> None:
        self.collections = 0
        self.vcpus = [Vcpu(_vm(number), str(number % VCPUS_OF_A_VM)) for number in range(LIMITS.vcpus)]
        self.keys = [ThreadKey(vcpu.vm.pid, 100_000 + number, number + 1) for number, vcpu in enumerate(self.vcpus)]
        self.collect()

    def collect(self) -> None:
        """Change every cell."""
        self.collections += 1
        count = self.collections
        buckets = struct.pack(
            f"={BUCKETS}Q", *(count * (_FIRST_BUCKET <= n < _FIRST_BUCKET + _FILLED) for n in range(BUCKETS))
        )
        exits = count * _FILLED
        codes = range(LIMITS.cells // LIMITS.vcpus)
        vcpus = [
            VcpuRecord(
                key,
                b"CPU 0/KVM",
                None,
                VcpuTotals(exits * 1009),
                tuple(Cell(Space.ARM64_TRAP, code, exits, exits * 1013, buckets) for code in codes),
                None,
                alive=True,
            )
            for key in self.keys
        ]
        snapshot = Snapshot(
            vcpus=vcpus,
            counters=dict.fromkeys(COUNTERS, 0),
            runs=dict.fromkeys(PROGRAMS, RunStats(0.0, 0, 0)),
            slots=LIMITS.vcpus,
            slots_in_use=LIMITS.vcpus,
            cells=LIMITS.cells,
            cells_in_use=LIMITS.cells,
            taken_ns=time.monotonic_ns(),
        )
        self.status = CollectionStatus(snapshot, 0.0, count, 0)

    def observed(self) -> Observed:
        """Return all vCPUs with their names."""
        snapshot = self.status.snapshot
        assert snapshot
        vcpus: list[Identified] = list(zip(snapshot.vcpus, self.vcpus))
        return Observed(vcpus, (), complete=True)

    def forget(self, vanished: Sequence[VcpuRecord], in_metrics: Callable[[], None]) -> None:
        """Do nothing: no vCPU vanishes."""

    def write_down(self) -> None:
        """Do nothing: there is no ledger."""

    def set_linger(self, linger_ns: int) -> None:
        """Do nothing: no vCPU ends."""


def _vm(number: int) -> Vm:
    vm = number // VCPUS_OF_A_VM
    return Vm(10_000 + vm, f"web-{vm}", f"6f1c2a70-8d55-4a3a-9a33-{vm:012x}", "qemu")


def main() -> None:
    """Serve until standard input ends. The arguments are the files of the configuration that the attack needs."""
    process.keep_heap_small()
    collection = FullCollection()
    lookup = Lookup(Path("/proc"))
    for key, vcpu in zip(collection.keys, collection.vcpus):
        lookup.preset(key, vcpu)
    config = Config()

    def status() -> OwnStatus:
        return OwnStatus(collection.status, scraper.status)

    reasons = ReasonNames()
    scraper = Scraper(config, lookup, own.registry(status))
    scraper.use(collection)
    observer = Observer(lookup, reasons.lookup, vcpu_ids=False)
    viewer = Viewer(observer, status)
    viewer.use(collection, observer)
    page = HtmlPage(viewer.page_data, time.monotonic, kernel="6.1", telemetry_path="/metrics")
    settings = WatchedSettings(Path(sys.argv[1])) if sys.argv[1:] else None
    web = WebServer(["127.0.0.1:0"], settings=settings)
    web.serve(routes(scraper.page, "/metrics", viewer.document, page=page, not_ready=lambda: "", reload=lambda: ""))
    print(web.addresses[0], flush=True)
    sys.stdin.read()
    web.close()


if __name__ == "__main__":
    main()
