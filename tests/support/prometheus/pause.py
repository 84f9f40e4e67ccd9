"""Pause a demo, and read its page during the pause."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client.samples import Sample

from tests.support.prometheus import exporters
from tests.support.prometheus.server import Labels, Prometheus

EXACT = 1e-9
"""The relative tolerance for rounding of floating-point numbers."""


COUNTERS = ("kvm_exits_total", "kvm_userspace_exits_total")
DURATIONS = ("kvm_exit_duration_seconds", "kvm_userspace_exit_duration_seconds")


Identity = tuple[tuple[str, str], ...]


def identity(labels: Labels) -> Identity:
    """Return the labels that the exporter itself set."""
    return tuple(sorted((name, value) for name, value in labels.items() if name not in ("__name__", "job", "instance")))


def values(page: Iterable[Sample], name: str) -> dict[Identity, float]:
    return {identity(sample.labels): sample.value for sample in page if sample.name == name}


def paused(demo: exporters.Demo, servers: dict[tuple[str, bool], Prometheus]) -> tuple[int, list[Sample]]:
    """Pause the demo, and wait until every server has scraped it. Return the start of the pause in ms, and the page."""
    demo.pause()
    since_ms = time.time_ns() // 10**6 + 10  # Prometheus may change its time stamps by up to 2 ms
    page = demo.page()
    for server in servers.values():
        server.scrapes(since_ms, 1)
    still = demo.page()
    for name in (*COUNTERS, *(f"{name}_{part}" for name in DURATIONS for part in ("bucket", "count", "sum"))):
        assert values(page, name) == values(still, name) != {}
    return since_ms, page
