"""Records are rendered as protobuf and read back: every value is exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from exporter.config.options import Classic, Histogram, Level
from exporter.metrics.kvm import Identified
from exporter.model.reason import Space
from tests.support import pages, prometheus_messages
from tests.support.exits import NAMES, WEB, Name, cell, families, of, record, snapshots
from tests.support.pages import PROTOBUF
from tests.unit.metrics.exposition.wanted import CLASSICS, COUNTERS, HISTOGRAMS, LEVELS_OF_BOTH, as_text, plain, wanted


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("classic_in_protobuf", [True, False])
@given(vcpus=snapshots(), name=NAMES, level=LEVELS_OF_BOTH, classic=CLASSICS)
def test_protobuf_has_every_value_of_the_records(
    *,
    native: bool,
    classic_in_protobuf: bool,
    vcpus: list[Identified],
    name: Name,
    level: Level,
    classic: Classic,
) -> None:
    histogram = Histogram(native, replace(classic, in_protobuf=classic_in_protobuf))
    found = pages.read_protobuf(pages.page(families(vcpus, level, name), PROTOBUF, histogram=histogram).body)

    for family, series in wanted(vcpus, level.counters, name, COUNTERS).items():
        if series:
            read = found.pop(family)
            values = {pages.label_values(metric): metric.counter.value for metric in read.metric}
            assert values == {labels: float(total.exits) for labels, total in series.items()}
            assert read.type == prometheus_messages.COUNTER
    for family, series in wanted(vcpus, level.histograms, name, HISTOGRAMS).items():
        if series:
            read = found.pop(family)
            assert read.type == prometheus_messages.HISTOGRAM
            assert [pages.label_values(metric) for metric in read.metric] == list(series)
            for metric, total in zip(read.metric, series.values()):
                histogram = metric.histogram
                assert histogram.sample_count == sum(total.counts)
                assert histogram.sample_sum == total.sum_ns / 1e9
                if native:
                    assert pages.native_counts(histogram) == total.counts
                    # These fields mark a native histogram for Prometheus.
                    assert histogram.positive_span or histogram.zero_count
                else:
                    assert not histogram.positive_span
                    assert not histogram.HasField("schema")
                buckets = [(bucket.upper_bound, bucket.cumulative_count) for bucket in histogram.bucket]
                if classic_in_protobuf or not native:
                    lines = as_text(total, classic).buckets[:-1]  # Prometheus computes +Inf from the count
                    assert buckets == [(float(bound), int(count)) for bound, count in lines]
                else:
                    assert not buckets
    for family, samples in plain(vcpus, name, level).items():
        if samples:
            read = found.pop(family)
            kind = "counter" if family.endswith("_total") else "gauge"
            assert {pages.label_values(metric): getattr(metric, kind).value for metric in read.metric} == samples
            assert read.type == (prometheus_messages.COUNTER if kind == "counter" else prometheus_messages.GAUGE)
    assert not found


def test_the_first_bucket_is_the_zero_bucket_and_the_last_bucket_has_a_native_index() -> None:
    """The bound of bucket 0 is the zero threshold. The native index of the overflow bucket lies above 2^12 s."""
    made = families(of(WEB, record(100, 101, cell(Space.VMX, 12, 12, {0: 3, 1: 4, 141: 5}, 1))))
    (metric,) = pages.read_protobuf(pages.page(made, PROTOBUF).body)["kvm_exit_duration_seconds"].metric
    histogram = metric.histogram
    assert (histogram.schema, histogram.zero_threshold, histogram.zero_count) == (2, 2.0**-23, 3)
    assert [(span.offset, span.length) for span in histogram.positive_span] == [(-91, 1), (49 - -90, 1)]
    assert list(histogram.positive_delta) == [4, 1]


def test_an_empty_histogram_is_still_native() -> None:
    """A span without buckets marks it as native, as in Prometheus' own library."""
    made = families(of(WEB, record(100, 101, cell(Space.VMX, 12, 1, {}, 0))))
    (metric,) = pages.read_protobuf(pages.page(made, PROTOBUF).body)["kvm_exit_duration_seconds"].metric
    assert [(span.offset, span.length) for span in metric.histogram.positive_span] == [(0, 0)]
    assert (metric.histogram.sample_count, metric.histogram.sample_sum) == (0, 0.0)
    assert metric.histogram.HasField("sample_count")
    assert metric.histogram.HasField("schema")
