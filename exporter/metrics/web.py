"""The metrics of the web server: a part of the exporter's own metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from exporter.metrics.labelled import labelled


@dataclass(frozen=True)
class WebStatus:
    """The status that the web server publishes."""

    responses: Mapping[int, int] = field(default_factory=dict)
    """Responses since the start, by HTTP status."""
    closed: Mapping[str, int] = field(default_factory=dict)
    """Connections that the server has closed since the start, by cause."""
    connections: Mapping[str, int] = field(default_factory=dict)
    """Open connections, by state."""


def families(status: WebStatus) -> Iterator[Metric]:
    """Yield the metrics. All label values are known in advance."""
    responses = ((str(code), number) for code, number in status.responses.items())
    text = "Requests that were answered, by HTTP status."
    yield labelled(CounterMetricFamily, "http_requests_total", text, "code", responses)
    text = "Connections that the exporter has closed, by cause."
    yield labelled(CounterMetricFamily, "connections_closed_total", text, "cause", status.closed.items())
    yield labelled(GaugeMetricFamily, "connections", "Open connections, by state.", "state", status.connections.items())
