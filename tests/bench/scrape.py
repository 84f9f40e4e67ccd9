"""Render a page of 10,000 histograms (1,000 vCPUs, 10 reasons) in each format, and compare with prometheus_client."""

from __future__ import annotations

import random
import statistics
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from exporter.config.options import Classic, Histogram, Level
from exporter.metrics.exposition.buckets import ClassicBounds
from exporter.metrics.exposition.page import Exposition
from exporter.metrics.families import CounterFamily, Family, HistogramFamily
from exporter.metrics.kvm import Metrics
from exporter.model.buckets import BUCKETS
from exporter.model.reason import Space
from exporter.model.records import Cell, ThreadKey, VcpuRecord, VcpuTotals
from exporter.model.vm import Vcpu, Vm
from exporter.naming.reasons import ReasonNames

VCPUS, REASONS, ROUNDS = 1000, 10, 5
CLASSIC = Classic(2, 20e-6, 8.0)
BOUNDS = ClassicBounds.of(CLASSIC)
"""20 bounds, so that the text page has about 230,000 series, like a real scrape of that size."""

_PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
RENDERERS = {
    "text 0.0.4": ("text/plain", Histogram(classic=CLASSIC)),
    "OpenMetrics 1.0": ("application/openmetrics-text;version=1.0.0", Histogram(classic=CLASSIC)),
    "protobuf, native": (_PROTOBUF, Histogram(classic=Classic(in_protobuf=False))),
    "protobuf, native and classic": (_PROTOBUF, Histogram()),
}
"""By name: Accept, and the histograms. The last one is the default, with 13 bounds."""


class Host:
    """1,000 vCPUs whose records the test changes."""

    def __init__(self) -> None:
        self._chance = random.Random(23)
        self.vcpus: list[tuple[VcpuRecord, Vcpu]] = []
        for number in range(VCPUS):
            vm = Vm(pid=1000 + number // 4, name=f"vm-{number // 4}", uuid="", vmm="qemu")
            cells = tuple(self._cell(code) for code in range(REASONS))
            key = ThreadKey(vm.pid, 100_000 + number, number + 1)
            record = VcpuRecord(key, b"", None, VcpuTotals(number), cells, None, alive=True)
            self.vcpus.append((record, Vcpu(vm, str(number % 4))))

    def _cell(self, code: int) -> Cell:
        """Return a cell with 12 buckets filled, about three octaves, as one exit reason has."""
        counts = [0] * BUCKETS
        first = self._chance.randrange(30, 60)
        for bucket in range(first, first + 12):
            counts[bucket] = self._chance.randrange(1, 5000)
        total = sum(counts)
        return Cell(Space.ARM64_TRAP, code, total, total * 12345, struct.pack(f"={BUCKETS}Q", *counts))

    def change(self, every: int) -> None:
        """Give each n-th vCPU new values in all its cells; 0 changes none."""
        for number in range(0, VCPUS, every) if every else ():
            record, vcpu = self.vcpus[number]
            cells = tuple(self._cell(cell.code) for cell in record.cells)
            changed = VcpuRecord(record.key, b"", None, VcpuTotals(record.totals.guest_ns + 1), cells, None, alive=True)
            self.vcpus[number] = (changed, vcpu)


def _cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


class _Same:
    """The same families as objects of prometheus_client."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            if isinstance(family, CounterFamily):
                counter = CounterMetricFamily(family.name, family.help, labels=family.labels)
                for series in family.series:
                    counter.add_metric(series.labels, series.total().exits)
                yield counter
            elif isinstance(family, HistogramFamily):
                histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
                for series in family.series:
                    total = series.total()
                    counts = list(accumulate(total.counts()))
                    buckets = [(repr(b), float(counts[i])) for b, i in zip(BOUNDS.bounds, BOUNDS.last)]
                    histogram.add_metric(series.labels, [*buckets, ("+Inf", counts[-1])], total.sum_ns / 1e9)
                yield histogram


def main() -> None:
    """Measure and print the table."""
    host = Host()
    metrics = Metrics(ReasonNames().lookup, Level())
    accept, exposition = "", Exposition(Histogram(), CollectorRegistry())

    def use(name: str) -> None:
        """Render with this renderer from now on, and fill its cache. Renderers share the caches on the series."""
        nonlocal accept, exposition
        accept, histogram = RENDERERS[name]
        exposition = Exposition(histogram, CollectorRegistry())
        host.change(1)
        scrape()

    def scrape(encoding: str = "") -> int:
        metrics.update(host.vcpus, [])
        return len(exposition.page(metrics.families(host.vcpus), accept, encoding).body)

    metrics.update(host.vcpus, [])
    same = _Same(metrics.families(host.vcpus))

    def theirs() -> bytes:
        return generate_latest(same)  # type: ignore[arg-type]  # it calls only collect()

    baseline = statistics.median(_cpu(theirs) for _ in range(3))
    page = theirs()
    lines = sum(not line.startswith(b"#") for line in page.splitlines())
    print(f"{VCPUS * REASONS:,} histograms, {lines:,} series as text. CPU time, median of {ROUNDS}.\n")
    print("| renderer | changed since the last scrape | CPU s | cheaper than prometheus_client | bytes |")
    print("|---|---|---:|---:|---:|")
    print(f"| prometheus_client.generate_latest | (no matter) | {baseline:.2f} | 1 x | {len(page):,} |")
    for name in RENDERERS:
        use(name)
        for changed, every in (("all", 1), ("5 %", 20), ("none", 0)):
            times = []
            for _ in range(ROUNDS):
                host.change(every)
                times.append(_cpu(scrape))
            seconds = statistics.median(times)
            size = scrape()
            print(f"| {name} | {changed} | {seconds:.3f} | {baseline / seconds:.0f} x | {size:,} |")
    for name in ("text 0.0.4", "protobuf, native", "protobuf, native and classic"):
        use(name)
        times = [_cpu(lambda: scrape("gzip")) for _ in range(ROUNDS)]
        size = scrape("gzip")
        seconds = statistics.median(times)
        print(f"| {name}, gzip | none | {seconds:.3f} | {baseline / seconds:.0f} x | {size:,} |")

    print("\nPeak memory of a scrape, without the cached memory (tracemalloc):\n")
    print("| renderer | MB |")
    print("|---|---:|")
    for name, work in (
        ("prometheus_client", theirs),
        ("text 0.0.4", scrape),
        ("text 0.0.4, gzip", lambda: scrape("gzip")),
        ("protobuf, native", scrape),
        ("protobuf, native and classic", scrape),
    ):
        if name in RENDERERS:
            use(name)
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"| {name} | {peak / 1e6:.0f} |")


if __name__ == "__main__":
    main()
