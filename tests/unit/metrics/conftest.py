"""The exporter's own metrics, for the tests of this room."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from exporter.metrics import own as own_metrics
from tests.support.own_metrics import DROPPED, SNAPSHOT, WEB

STAT = "1 (python3) S 1 1 1 0 -1 0 1 1 1 1 123 45 0 0 20 0 3 0 4711 1000000 250 18446744073709551615 " + "0 " * 27


class Frozen:
    """A collector that always returns the same families. Otherwise, the CPU time would differ between two pages."""

    def __init__(self, collected: Iterable[Metric]) -> None:
        self._metrics = list(collected)

    def collect(self) -> list[Metric]:
        return self._metrics

    def describe(self) -> list[Metric]:
        return []


@pytest.fixture
def own(tmp_path: Path) -> CollectorRegistry:
    """A registry with all of the exporter's own metrics. Their values do not change."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/stat").write_text(STAT)
    (tmp_path / "self/limits").write_text("Max open files            1024                 4096                 files\n")
    (tmp_path / "self/fd").mkdir()
    (tmp_path / "stat").write_text("btime 1700000000\n")
    (tmp_path / str(os.getpid())).symlink_to(tmp_path / "self")
    collection = own_metrics.CollectionStatus(SNAPSHOT, seconds=0.1, collections=3, dropped=DROPPED)
    status = own_metrics.OwnStatus(collection, config=own_metrics.ConfigStatus(loaded=1.7e9 + 0.25), web=WEB)
    registry = CollectorRegistry()
    registry.register(Frozen(own_metrics.registry(lambda: status, str(tmp_path)).collect()))  # type: ignore[arg-type]
    return registry
