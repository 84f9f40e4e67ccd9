"""Whole pages follow the rules of their format and have the same content in all formats.

The renderers' caches change no page.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from exporter.config.options import Level
from exporter.metrics.exposition.page import Exposition
from exporter.metrics.kvm import Identified, Metrics
from exporter.model.reason import Space
from exporter.model.records import Cell
from tests.support import pages, prometheus_messages
from tests.support.exits import BUCKETS, NAMES, WEB, Name, cell, families, metrics, of, record, snapshots
from tests.support.pages import FORMATS, OPENMETRICS, PROTOBUF, TEXT

VCPUS = of(WEB, *(record(100, tid, *(cell(Space.VMX, n, n, {n: n}, n) for n in range(9))) for tid in (101, 102)))


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_a_text_page_has_each_family_and_each_series_once(own: CollectorRegistry, accept: str) -> None:
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


@given(snapshots(), NAMES)
def test_openmetrics_ends_with_one_end_mark(vcpus: list[Identified], name: Name) -> None:
    body = pages.page(families(vcpus, name=name), OPENMETRICS).body
    assert body.endswith(b"\n# EOF\n")
    assert re.findall(rb"^# EOF$", body, re.MULTILINE) == [b"# EOF"]
    assert b"# EOF" not in re.findall(rb"^.*$", pages.page(families(vcpus, name=name), TEXT).body, re.MULTILINE)


def test_a_page_without_vcpus_names_the_families_only_in_text() -> None:
    """Protobuf cannot express a family without metrics."""
    made = families([])
    assert [family.name for family in pages.read_text(pages.page(made, TEXT).body)] == [one.name for one in made]
    assert pages.page(made, OPENMETRICS).body.endswith(b"\n# EOF\n")
    assert pages.page(made, PROTOBUF).body == b""


def test_each_protobuf_family_contains_metrics_of_the_type_that_it_declares(own: CollectorRegistry) -> None:
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


def test_counts_and_sums_of_up_to_2_to_the_63_are_rendered() -> None:
    """The test renders 2^63 exits and 2^63 nanoseconds.

    A native bucket holds at most 2^63 - 1, because its protobuf field is a signed difference.
    """
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


# --- several pages ---

CODES = [12, 10, 48]


class Host:
    """Two vCPUs that count. As in the collector, a cell becomes a new object only if it changes."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.cells = {(tid, code): cell(Space.VMX, code, 1, {5: 1}, 10) for tid in (101, 102) for code in CODES}

    def count(self, tid: int, code: int, bucket: int) -> None:
        old = self.cells[tid, code]
        counts = dict(enumerate(old.counts()))
        counts[bucket] += 1
        self.cells[tid, code] = cell(Space.VMX, code, old.exits + 1, counts, old.sum_ns + 7)

    def vcpus(self) -> list[Identified]:
        by_tid: dict[int, list[Cell]] = {101: [], 102: []}
        for (tid, _), one in self.cells.items():
            by_tid[tid].append(one)
        return of(WEB, *(record(100, tid, *found, guest_ns=tid) for tid, found in by_tid.items()))

    def fresh(self, accept: str) -> bytes:
        """Return the page of an exporter whose caches are empty."""
        return page(metrics(self.level), pages.exposition(), self.vcpus(), accept)


def page(made: Metrics, exposition: Exposition, vcpus: list[Identified], accept: str) -> bytes:
    made.update(vcpus, [])
    return exposition.page(made.families(vcpus), accept, "").body


COUNTS = st.tuples(st.sampled_from([101, 102]), st.sampled_from(CODES), st.integers(0, BUCKETS - 1))
LEVELS_OF_BOTH = st.builds(Level, st.sampled_from(["vcpu", "vm"]), st.sampled_from(["vcpu", "vm"]))


@given(LEVELS_OF_BOTH, st.lists(COUNTS | st.sampled_from(FORMATS), max_size=20))
def test_every_page_equals_the_page_of_a_new_exporter(level: Level, steps: list[tuple[int, int, int] | str]) -> None:
    host, made, exposition = Host(level), metrics(level), pages.exposition()
    for step in [*FORMATS, *steps, *FORMATS]:
        if isinstance(step, str):
            assert page(made, exposition, host.vcpus(), step) == host.fresh(step)
        else:
            host.count(*step)


def series_pieces(made: Metrics, exposition: Exposition, vcpus: list[Identified], accept: str) -> list[bytes]:
    """Return the pieces of a page that have series of counters and histograms."""
    made.update(vcpus, [])
    families = made.families(vcpus)
    if accept == PROTOBUF:
        return [piece for piece in exposition._protobuf.render(families) if b"HLT" in piece or b"CPUID" in piece]
    pieces = exposition._text.render(families, openmetrics=accept == OPENMETRICS)
    return [piece for piece in pieces if b"HLT" in piece or b"CPUID" in piece]


@pytest.mark.parametrize("accept", FORMATS)
def test_pieces_of_unchanged_series_are_the_same_objects(accept: str) -> None:
    halt, cpuid = cell(Space.VMX, 12, 5, {10: 5}, 50), cell(Space.VMX, 10, 2, {11: 2}, 60)
    made, exposition = metrics(), pages.exposition()
    first = series_pieces(made, exposition, of(WEB, record(100, 101, halt, cpuid)), accept)
    again = series_pieces(made, exposition, of(WEB, record(100, 101, halt, cpuid)), accept)
    assert len(first) == 4  # the counter and the histogram of both reasons
    assert all(one is other for one, other in zip(first, again))

    more = cell(Space.VMX, 10, 3, {11: 3}, 70)
    changed = series_pieces(made, exposition, of(WEB, record(100, 101, halt, more)), accept)
    assert [one is other for one, other in zip(first, changed)] == [b"HLT" in piece for piece in first]
    assert all(one != other for one, other in zip(first, changed) if b"CPUID" in one)


def test_a_page_in_one_format_keeps_the_pieces_of_the_other_formats() -> None:
    vcpus = of(WEB, record(100, 101, cell(Space.VMX, 12, 5, {10: 5}, 50)))
    made, exposition = metrics(), pages.exposition()
    pieces = {accept: series_pieces(made, exposition, vcpus, accept) for accept in FORMATS}
    for accept in (PROTOBUF, TEXT, OPENMETRICS):
        again = series_pieces(made, exposition, vcpus, accept)
        assert [one is other for one, other in zip(pieces[accept], again)] == [True, True]
    # The two text formats share their pieces.
    assert [one is other for one, other in zip(pieces[TEXT], pieces[OPENMETRICS])] == [True, True]
