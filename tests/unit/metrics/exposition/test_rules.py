"""The rules of the formats on whole pages, the exporter's own metrics among them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from exporter.metrics import own as own_metrics
from exporter.metrics.kvm import Identified
from exporter.model.reason import Space
from exporter.model.records import RunStats, Snapshot
from tests.support import pages, prometheus_messages
from tests.support.exits import NAMES, WEB, Name, cell, families, of, record, snapshots
from tests.support.pages import FORMATS, OPENMETRICS, PROTOBUF, TEXT

COUNTERS = [
    *(f"dropped_{cause}" for cause in ("no_slot", "no_cell", "chain_full")),
    *(f"dropped_userspace_{cause}" for cause in ("no_slot", "no_cell", "chain_full")),
    *(f"unmatched_{event}" for event in ("exit", "entry", "userspace_exit")),
]
PROGRAMS = ["kvm_exit", "kvm_entry", "kvm_userspace_exit", "sched_process_exit"]
SNAPSHOT = Snapshot(
    vcpus=[],
    counters={name: 2**53 + 2 * number for number, name in enumerate(COUNTERS)},
    runs={name: RunStats(0.1 + number, 7 + number, number) for number, name in enumerate(PROGRAMS)},
    slots=4096,
    slots_in_use=3,
    cells=16384,
    cells_in_use=30,
)
STAT = "1 (python3) S 1 1 1 0 -1 0 1 1 1 1 123 45 0 0 20 0 3 0 4711 1000000 250 18446744073709551615 " + "0 " * 27


class Frozen:
    """A collector that gives the same families each time: CPU time goes on between two pages."""

    def __init__(self, collected: Iterable[Metric]) -> None:
        self._metrics = list(collected)

    def collect(self) -> list[Metric]:
        return self._metrics

    def describe(self) -> list[Metric]:
        return []


@pytest.fixture
def own(tmp_path: Path) -> CollectorRegistry:
    """All of the exporter's own metrics, at one moment."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/stat").write_text(STAT)
    (tmp_path / "self/limits").write_text("Max open files            1024                 4096                 files\n")
    (tmp_path / "self/fd").mkdir()
    (tmp_path / "stat").write_text("btime 1700000000\n")
    (tmp_path / str(os.getpid())).symlink_to(tmp_path / "self")
    collection = own_metrics.CollectionStatus(SNAPSHOT, seconds=0.1, collections=3)
    status = own_metrics.OwnStatus(collection, config=own_metrics.ConfigStatus(loaded=1.7e9 + 0.25))
    registry = CollectorRegistry()
    registry.register(Frozen(own_metrics.registry(lambda: status, str(tmp_path)).collect()))  # type: ignore[arg-type]
    return registry


VCPUS = of(WEB, *(record(100, tid, *(cell(Space.VMX, n, n, {n: n}, n) for n in range(9))) for tid in (101, 102)))


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_each_family_of_text_is_in_one_piece_and_no_series_comes_twice(own: CollectorRegistry, accept: str) -> None:
    body = pages.exposition(own).page(families(VCPUS), accept, "").body
    found = pages.read_text(body)
    suffixes = {
        "counter": ["_total"] if accept == OPENMETRICS else [""],
        "gauge": [""],
        "histogram": ["_bucket", "_count", "_sum"],
    }
    series = set()
    for family in found:
        assert family.help
        for sample in family.samples:
            assert sample.name in [family.name + suffix for suffix in suffixes[family.kind]]
            assert (sample.name, sample.labels) not in series
            series.add((sample.name, sample.labels))
        if family.kind == "counter":
            assert family.name.endswith("_total") == (accept == TEXT)
    assert {"kvm_vm_info", "python_info", "process_start_time_seconds", "kvm_exit_exporter_up"} <= {
        family.name for family in found
    }
    pages.agrees_with_client(body, accept)


@settings(deadline=None)
@given(snapshots(), NAMES)
def test_openmetrics_ends_with_one_end_mark(vcpus: list[Identified], name: Name) -> None:
    body = pages.page(families(vcpus, name=name), OPENMETRICS).body
    assert body.endswith(b"\n# EOF\n")
    assert re.findall(rb"^# EOF$", body, re.MULTILINE) == [b"# EOF"]
    assert b"# EOF" not in re.findall(rb"^.*$", pages.page(families(vcpus, name=name), TEXT).body, re.MULTILINE)


def test_a_page_without_any_vcpu() -> None:
    """Text names the families all the same; protobuf has no place for a family without metrics."""
    made = families([])
    assert [family.name for family in pages.read_text(pages.page(made, TEXT).body)] == [one.name for one in made]
    assert pages.page(made, OPENMETRICS).body.endswith(b"\n# EOF\n")
    assert pages.page(made, PROTOBUF).body == b""


def test_families_of_protobuf_have_metrics_of_their_type(own: CollectorRegistry) -> None:
    fields = {
        prometheus_messages.COUNTER: "counter",
        prometheus_messages.GAUGE: "gauge",
        prometheus_messages.HISTOGRAM: "histogram",
    }
    found = pages.read_protobuf(pages.exposition(own).page(families(VCPUS), PROTOBUF, "").body)
    for family in found.values():
        assert family.help
        for metric in family.metric:
            assert [field.name for field, _ in metric.ListFields() if field.name != "label"] == [fields[family.type]]
            names = [pair.name for pair in metric.label]
            assert len(set(names)) == len(names)
    assert found["kvm_exit_exporter_up"].type == prometheus_messages.GAUGE
    assert found["kvm_exit_exporter_collections_total"].type == prometheus_messages.COUNTER


def test_the_exporters_own_metrics_are_the_same_in_all_formats(own: CollectorRegistry) -> None:
    bodies = {accept: pages.exposition(own).page([], accept, "").body for accept in FORMATS}
    collected: dict[Any, float] = {}
    for metric in own.collect():
        for sample in metric.samples:
            collected[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    assert len(collected) > 35
    for accept in (TEXT, OPENMETRICS):
        samples = [sample for family in pages.read_text(bodies[accept]) for sample in family.samples]
        assert {(name, tuple(sorted(labels))): float(value) for name, labels, value in samples} == collected
    read: dict[Any, float] = {}
    for family in pages.read_protobuf(bodies[PROTOBUF]).values():
        for metric in family.metric:
            labels = tuple(sorted((pair.name, pair.value) for pair in metric.label))
            kind = "counter" if family.type == prometheus_messages.COUNTER else "gauge"
            read[family.name, labels] = getattr(metric, kind).value
    assert read == collected


def test_help_is_the_same_in_all_formats(own: CollectorRegistry) -> None:
    documented = {metric.name: metric.documentation for metric in own.collect()}
    found = pages.read_protobuf(pages.exposition(own).page([], PROTOBUF, "").body)
    for name, family in found.items():
        stem = name[: -len("_total")] if name.endswith("_total") else name
        assert family.help == documented[stem]
