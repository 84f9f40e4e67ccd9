"""The metrics of the web server: a part of the exporter's own metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


@dataclass(frozen=True)
class WebStatus:
    """The status that the web server publishes."""

    responses: Mapping[int, int] = field(default_factory=dict)
    """Responses since the start, by HTTP status."""
    closed: Mapping[str, int] = field(default_factory=dict)
    """Connections that the server has closed since the start, by cause."""
    connections: Mapping[str, int] = field(default_factory=dict)
    """Open connections, by state."""


def families(status: WebStatus, prefix: str) -> Iterator[Metric]:
    """Yield the metrics. All label values are known in advance."""
    requests = CounterMetricFamily(
        prefix + "http_requests_total", "Requests that were answered, by HTTP status.", labels=["code"]
    )
    for code, number in status.responses.items():
        requests.add_metric([str(code)], number)
    yield requests
    closed = CounterMetricFamily(
        prefix + "connections_closed_total", "Connections that the exporter has closed, by cause.", labels=["cause"]
    )
    for cause, number in status.closed.items():
        closed.add_metric([cause], number)
    yield closed
    connections = GaugeMetricFamily(prefix + "connections", "Open connections, by state.", labels=["state"])
    for state, number in status.connections.items():
        connections.add_metric([state], number)
    yield connections
