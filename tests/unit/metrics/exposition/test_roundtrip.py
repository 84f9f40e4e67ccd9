"""Records to a page and back, in every format: nothing is lost, rounded or mixed up."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.config.options import Classic, Histogram, Level
from exporter.metrics.exposition.buckets import ClassicBounds
from exporter.metrics.kvm import Identified
from exporter.model.reason import Space
from tests.support import exits, pages, prometheus_messages
from tests.support.exits import NAMES, WEB, Labels, Name, Total, cell, families, of, record, snapshots
from tests.support.pages import OPENMETRICS, PROTOBUF, TEXT

LEVELS = st.sampled_from(["vcpu", "vm", "off"])
LEVELS_OF_BOTH = st.builds(Level, LEVELS, LEVELS)
CLASSICS = st.sampled_from([Classic(), Classic(2, 1e-6, 3600.0), Classic(16, 0.5, 1.0)])

# Families of series: name, and whether they are of exits to the VMM.
COUNTERS = {"kvm_exits_total": False, "kvm_userspace_exits_total": True}
HISTOGRAMS = {"kvm_exit_duration_seconds": False, "kvm_userspace_exit_duration_seconds": True}


def plain(vcpus: list[Identified], name: Name, level: Level) -> dict[str, dict[Labels, float]]:
    """What the families of few series must hold."""
    found: dict[str, dict[Labels, float]] = {
        "kvm_vcpu_exit_in_progress_seconds": {
            (*exits.who(each, vcpu, "vcpu"), *name(each.in_progress.space, each.in_progress.code)): (
                each.in_progress.age_ns / 1e9
            )
            for each, vcpu in vcpus
            if each.in_progress
        },
        "kvm_vm_info": {(str(v.vm.pid), v.vm.name, v.vm.uuid, v.vm.vmm): 1.0 for _, v in vcpus},
    }
    if level.counters != "off":
        guest = exits.guest_ns(vcpus, level.counters)
        found["kvm_vcpu_guest_seconds_total"] = {labels: ns / 1e9 for labels, ns in guest.items()}
    return found


def wanted(vcpus: list[Identified], level: str, name: Name, kinds: dict[str, bool]) -> dict[str, dict[Labels, Total]]:
    if level == "off":
        return {}
    return {family: exits.totals(vcpus, level, name, userspace=userspace) for family, userspace in kinds.items()}


def as_text(total: Total, classic: Classic) -> pages.TextHistogram:
    """A histogram's lines as they must be written."""
    cumulated = list(accumulate(total.counts))
    bounds = [(repr(bound), math.log2(bound)) for bound in ClassicBounds.of(classic).bounds]
    buckets = [(text, str(cumulated[round(octave * 4) + 92])) for text, octave in bounds]
    return pages.TextHistogram([*buckets, ("+Inf", str(cumulated[-1]))], str(cumulated[-1]), repr(total.sum_ns / 1e9))


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
@settings(deadline=None)
@given(vcpus=snapshots(), name=NAMES, level=LEVELS_OF_BOTH, classic=CLASSICS)
def test_text(accept: str, vcpus: list[Identified], name: Name, level: Level, classic: Classic) -> None:
    body = pages.page(families(vcpus, level, name), accept, histogram=Histogram(classic=classic)).body
    found = {family.name: family for family in pages.read_text(body)}
    suffix = "_total" if accept == OPENMETRICS else ""
    stem = (lambda family: family[: -len("_total")]) if accept == OPENMETRICS else str

    for family, series in wanted(vcpus, level.counters, name, COUNTERS).items():
        values = pages.simple(found[stem(family)], suffix)
        assert values == {labels: str(total.exits) for labels, total in series.items()}
        assert found.pop(stem(family)).kind == "counter"
    for family, series in wanted(vcpus, level.histograms, name, HISTOGRAMS).items():
        lines = pages.histograms(found[family])
        assert lines == {labels: as_text(total, classic) for labels, total in series.items()}
        assert found.pop(family).kind == "histogram"
    for family, samples in plain(vcpus, name, level).items():
        counter = family.endswith("_total")
        values = pages.simple(found[stem(family) if counter else family], suffix if counter else "")
        assert values == {labels: repr(value) for labels, value in samples.items()}
        assert found.pop(stem(family) if counter else family).kind == ("counter" if counter else "gauge")
    assert not found
    pages.agrees_with_client(body, accept)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("classic_in_protobuf", [True, False])
@settings(deadline=None)
@given(vcpus=snapshots(), name=NAMES, level=LEVELS_OF_BOTH, classic=CLASSICS)
def test_protobuf(
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
                    assert histogram.positive_span or histogram.zero_count  # how Prometheus knows a native one
                else:
                    assert not histogram.positive_span
                    assert not histogram.HasField("schema")
                buckets = [(bucket.upper_bound, bucket.cumulative_count) for bucket in histogram.bucket]
                if classic_in_protobuf or not native:
                    lines = as_text(total, classic).buckets[:-1]  # Prometheus makes +Inf of the count
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


@settings(deadline=None)
@given(snapshots())
def test_label_names_and_help_are_the_same_in_all_formats(vcpus: list[Identified]) -> None:
    made = families(vcpus)
    read = pages.read_protobuf(pages.page(made, PROTOBUF).body)
    for accept in (TEXT, OPENMETRICS):
        for family, declared in zip(pages.read_text(pages.page(made, accept).body), made):
            assert family.help == declared.help
            for sample in family.samples:
                assert tuple(label for label, _ in sample.labels if label != "le") == declared.labels
    for declared in made:
        if declared.name in read:
            assert read[declared.name].help == declared.help
            for metric in read[declared.name].metric:
                assert tuple(pair.name for pair in metric.label) == declared.labels


def test_the_largest_numbers_a_counter_can_hold() -> None:
    """2^63 exits and nanoseconds. A native bucket ends at 2^63 - 1: its field is a signed difference."""
    made = families(of(WEB, record(100, 101, cell(Space.VMX, 12, 2**63, {10: 2**63 - 1}, 2**63), guest_ns=2**63)))
    for accept in (TEXT, OPENMETRICS):
        lines = pages.page(made, accept).body.decode().split("\n")
        labels = '{pid="100",tid="101",vm="web-1",vcpu="0",reason="HLT",class="idle"}'
        assert f"kvm_exits_total{labels} 9223372036854775808" in lines
        assert f"kvm_exit_duration_seconds_count{labels} 9223372036854775807" in lines
        assert f"kvm_exit_duration_seconds_sum{labels} 9223372036.854776" in lines
    found = pages.read_protobuf(pages.page(made, PROTOBUF).body)
    (metric,) = found["kvm_exits_total"].metric
    assert metric.counter.value == 2.0**63
    (metric,) = found["kvm_exit_duration_seconds"].metric
    assert pages.native_counts(metric.histogram)[10] == 2**63 - 1


def test_the_first_and_the_last_bucket() -> None:
    """Bucket 0 is the zero bucket, whose threshold is its bound; the overflow is the one above 2^12 s."""
    made = families(of(WEB, record(100, 101, cell(Space.VMX, 12, 12, {0: 3, 1: 4, 141: 5}, 1))))
    (metric,) = pages.read_protobuf(pages.page(made, PROTOBUF).body)["kvm_exit_duration_seconds"].metric
    histogram = metric.histogram
    assert (histogram.schema, histogram.zero_threshold, histogram.zero_count) == (2, 2.0**-23, 3)
    assert [(span.offset, span.length) for span in histogram.positive_span] == [(-91, 1), (49 - -90, 1)]
    assert list(histogram.positive_delta) == [4, 1]


def test_an_empty_histogram_is_still_native() -> None:
    """By a span without buckets, as Prometheus' own library writes it."""
    made = families(of(WEB, record(100, 101, cell(Space.VMX, 12, 1, {}, 0))))
    (metric,) = pages.read_protobuf(pages.page(made, PROTOBUF).body)["kvm_exit_duration_seconds"].metric
    assert [(span.offset, span.length) for span in metric.histogram.positive_span] == [(0, 0)]
    assert (metric.histogram.sample_count, metric.histogram.sample_sum) == (0, 0.0)
    assert metric.histogram.HasField("sample_count")
    assert metric.histogram.HasField("schema")
