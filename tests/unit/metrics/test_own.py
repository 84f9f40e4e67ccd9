"""The exporter's own metrics on a page, in every format."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from exporter.metrics import own as own_metrics
from exporter.metrics.own import OwnStatus
from tests.support import pages, prometheus_messages
from tests.support.pages import FORMATS, OPENMETRICS, PROTOBUF, TEXT


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


def test_the_time_split_is_told() -> None:
    for split in (False, True):
        registry = own_metrics.registry(lambda split=split: OwnStatus(time_split=split))  # type: ignore[misc]
        assert registry.get_sample_value("kvm_exit_exporter_time_split") == float(split)


def test_a_foreign_pid_namespace_is_told() -> None:
    for foreign in (False, True):
        registry = own_metrics.registry(lambda foreign=foreign: OwnStatus(foreign_pids=foreign))  # type: ignore[misc]
        assert registry.get_sample_value("kvm_exit_exporter_foreign_pid_namespace") == float(foreign)
