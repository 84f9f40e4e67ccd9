"""Text formats, rendered by prometheus_client: 0.0.4, or OpenMetrics when the scraper asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from exporter.families import FIRST_BOUND, Family, Histogram

_OCTAVES = range(-20, 5, 2)
"""Classic bounds: every second power of two from 2^-20 s (1 us) to 2^4 s. Sums of native buckets, so both agree."""

_CLASSIC: list[tuple[str, int]] = [
    (floatToGoString(2.0**octave), 4 * octave - FIRST_BOUND)  # type: ignore[no-untyped-call]
    for octave in _OCTAVES
]
_KINDS: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _classic(histogram: Histogram) -> list[tuple[str, float]]:
    cumulated = list(accumulate(histogram.counts))
    bounds: list[tuple[str, float]] = [(bound, cumulated[last]) for bound, last in _CLASSIC]
    return [*bounds, ("+Inf", cumulated[-1])]


def _metric(family: Family) -> Any:
    metric: Any = _KINDS[family.kind](family.name, family.help, labels=family.labels)
    for labels, value in family.samples:
        if isinstance(value, Histogram):
            metric.add_metric(labels, buckets=_classic(value), sum_value=value.sum_seconds)
        else:
            metric.add_metric(labels, value)
    return metric


class _Page(CollectorRegistry):
    """A registry to prometheus_client's encoders: the families first, then what the other registry holds."""

    def __init__(self, families: Iterable[Family], registry: CollectorRegistry) -> None:
        super().__init__()
        self._families = families
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the page."""
        yield from map(_metric, self._families)
        yield from self._registry.collect()


def render(families: Iterable[Family], registry: CollectorRegistry, accept: str) -> tuple[str, bytes]:
    """Return the content type and the body for a scraper that sent this Accept header."""
    encode, content_type = choose_encoder(accept)
    return content_type, encode(_Page(families, registry))
