"""Prometheus' rate() of counters that a replayed recording moves.

While the demo is paused its page does not change. So a sample that Prometheus takes then must equal the page exactly,
and the increase between two samples must equal the increase between the two pages. rate() extrapolates to the ends of
its window. So the window begins a millisecond before the first sample (Prometheus 3 leaves out a sample at the start
of the window) and ends with the last sample: then rate() is the increase divided by the time between the two samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from prometheus_client.samples import Sample

from tests.support.prometheus import builds, exporters
from tests.support.prometheus.pause import COUNTERS, DURATIONS, EXACT, Identity, identity, paused, values
from tests.support.prometheus.server import Prometheus, of_every_kind

SPEED = 5
RUNNING_SECONDS = 6.0

ENOUGH = 100
"""A quantile is compared only if it is made of at least this many durations."""
FEW = 3
"""At least this many series must have changed. The machine's speed decides how much of the recording is replayed."""


@dataclass(frozen=True)
class Moved:
    """The pages of the two pauses, the start of each pause in ms, and the servers that scraped all the time."""

    pages: tuple[list[Sample], list[Sample]]
    paused_ms: tuple[int, int]
    servers: dict[tuple[str, bool], Prometheus]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    with ExitStack() as stack:
        demo = exporters.Demo(tmp_path_factory.mktemp("demo"), SPEED)
        stack.callback(demo.end)
        servers = of_every_kind(demo.address, tmp_path_factory, stack)
        for server in servers.values():
            server.scrapes(0, 1)
        first_ms, first = paused(demo, servers)
        demo.resume()
        time.sleep(RUNNING_SECONDS)
        second_ms, second = paused(demo, servers)
        yield Moved((first, second), (first_ms, second_ms), servers)


@dataclass(frozen=True)
class Window:
    """One server, and its samples between the two pauses."""

    prometheus: Prometheus
    native: bool
    pages: tuple[list[Sample], list[Sample]]
    first_ms: int
    last_ms: int

    @property
    def seconds(self) -> float:
        return (self.last_ms - self.first_ms) / 1000

    @property
    def range(self) -> str:
        return f"[{self.last_ms - self.first_ms + 1}ms]"

    def increases(self, name: str) -> dict[Identity, tuple[float, float]]:
        """Return the first value and the increase of each series that is on both pages."""
        before, after = (values(page, name) for page in self.pages)
        assert before.keys() <= after.keys()
        return {labels: (value, after[labels] - value) for labels, value in before.items()}

    def query(self, expression: str) -> dict[Identity, float]:
        found = self.prometheus.query(expression, self.last_ms)
        result = {identity(sample.labels): sample.value for sample in found}
        assert len(result) == len(found)
        return result


@pytest.fixture(
    scope="module",
    params=[(suite, native) for suite in builds.SUITES for native in (True, False)],
    ids=lambda param: f"{param[0]}-{'native' if param[1] else 'classic'}",
)
def window(request: pytest.FixtureRequest, build: Callable[[str], builds.Build], moved: Moved) -> Window:
    suite, native = request.param
    build(suite)
    server = moved.servers[suite, native]
    first, last = (server.scrapes(since, 1)[0] for since in moved.paused_ms)
    return Window(server, native, moved.pages, first, last)


def _check_samples(window: Window, selector: str, name: str) -> None:
    """Assert that the samples equal the page at both pauses, and that no sample is lower than the sample before it."""
    before, after = (values(page, name) for page in window.pages)
    found = {identity(labels): samples for labels, samples in window.prometheus.raw(selector, window.last_ms)}
    assert {labels: samples[window.last_ms] for labels, samples in found.items()} == after
    at_first = {labels: samples[window.first_ms] for labels, samples in found.items() if window.first_ms in samples}
    assert at_first == before
    for samples in found.values():
        ordered = [samples[stamp] for stamp in sorted(samples)]
        assert ordered == sorted(ordered)
    assert sum(len(set(samples.values())) > 2 for samples in found.values()) >= FEW, "too few series changed"
    assert set(window.query(f"resets({selector}[10m])").values()) == {0.0}


def _check_rates(window: Window, expression: str, name: str) -> None:
    """Assert that a rate expression equals the metric's increase per second on the text page."""
    rates = window.query(expression)
    increases = window.increases(name)
    assert increases.keys() <= rates.keys()
    compared = 0
    for labels, (first, increase) in increases.items():
        if first * window.seconds < 0.002 * increase:
            continue  # rate() extrapolates to zero within that millisecond, and versions of Prometheus differ there
        assert math.isclose(rates[labels], increase / window.seconds, rel_tol=EXACT), labels
        compared += increase > 0
    assert compared >= FEW


@pytest.mark.parametrize("name", COUNTERS)
def test_samples_and_rates_of_counters_equal_the_page(window: Window, name: str) -> None:
    _check_samples(window, name, name)
    _check_rates(window, f"rate({name}{window.range})", name)


@pytest.mark.parametrize("name", DURATIONS)
def test_samples_and_rates_of_histograms_equal_the_page(window: Window, name: str) -> None:
    """Classic histograms: counts, sums and buckets. Native histograms: counts and sums."""
    if window.native:
        _check_samples(window, name, f"{name}_count")
        for part in ("count", "sum"):
            _check_rates(window, f"histogram_{part}(rate({name}{window.range}))", f"{name}_{part}")
    else:
        for part in ("count", "sum", "bucket"):
            _check_samples(window, f"{name}_{part}", f"{name}_{part}")
            _check_rates(window, f"rate({name}_{part}{window.range})", f"{name}_{part}")


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_quantiles_of_rates_lie_in_the_pages_bucket(window: Window, name: str, quantile: float) -> None:
    """The query is that of a dashboard, with classic or native histograms. From the page's increases the test finds the
    classic bucket in which the quantile must lie. A rank on the edge between two buckets may be rounded into either
    bucket: then both buckets are allowed.
    """
    form = name if window.native else f"{name}_bucket"
    found = window.query(f"histogram_quantile({quantile}, rate({form}{window.range}))")
    increases: dict[Identity, list[tuple[float, float]]] = {}
    for labels, (_, increase) in window.increases(f"{name}_bucket").items():
        bound = float(dict(labels)["le"])
        increases.setdefault(tuple(pair for pair in labels if pair[0] != "le"), []).append((bound, increase))
    compared = 0
    for labels, unordered in increases.items():
        buckets = sorted(unordered)
        total = buckets[-1][1]
        if total < ENOUGH:
            continue
        rank = math.floor(quantile * total)
        low, high = (
            next(number for number, (_, count) in enumerate(buckets) if count >= min(rank + more, total))
            for more in (0, 1)
        )
        assert math.isfinite(buckets[high][0])
        lowest = buckets[low - 1][0] if low else 0.0
        assert lowest * (1 - EXACT) <= found[labels] <= buckets[high][0] * (1 + EXACT), labels
        compared += 1
    assert compared >= FEW


def test_guest_time_never_falls(window: Window) -> None:
    """Guest time also grows while the demo is paused, because a vCPU that was in its guest stays in it."""
    name = "kvm_vcpu_guest_seconds_total"
    assert len(window.query(f"{name} > 0")) == 5
    assert set(window.query(f"resets({name}[10m])").values()) == {0.0}


def test_every_scrape_succeeds_without_a_warning(window: Window) -> None:
    (target,) = window.prometheus.api("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert window.prometheus.complaints() == []
    assert set(window.query("min_over_time(up[10m])").values()) == {1.0}
    assert len(window.prometheus.stored()) == window.query("scrape_samples_scraped").popitem()[1]
