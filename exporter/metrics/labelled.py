"""Makes the exporter's own metrics: their names have one prefix."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

PREFIX = "kvm_exit_exporter_"


def labelled(kind: type[Metric], name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Return a metric with one label. `kind` is a class of prometheus_client, and `values` are by label value."""
    metric = kind(PREFIX + name, text, labels=[label])  # type: ignore[call-arg]
    for value, number in values:
        metric.add_metric([value], number)  # type: ignore[attr-defined]
    return metric
