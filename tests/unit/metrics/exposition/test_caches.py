"""Pages after pages: what did not change is not rendered again, what changed is right, whatever format comes when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.config.options import Level
from exporter.metrics.exposition.page import Exposition
from exporter.metrics.kvm import Identified, Metrics
from exporter.model.reason import Space
from exporter.model.records import Cell
from tests.support import pages
from tests.support.exits import BUCKETS, WEB, cell, metrics, of, record
from tests.support.pages import FORMATS, OPENMETRICS, PROTOBUF, TEXT

CODES = [12, 10, 48]


class Host:
    """Two vCPUs that count; each collection makes new objects of the cells that changed, and only of them."""

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
        """The page of an exporter that has no caches yet."""
        return page(metrics(self.level), pages.exposition(), self.vcpus(), accept)


def page(made: Metrics, exposition: Exposition, vcpus: list[Identified], accept: str) -> bytes:
    made.update(vcpus, [])
    return exposition.page(made.families(vcpus), accept, "").body


COUNTS = st.tuples(st.sampled_from([101, 102]), st.sampled_from(CODES), st.integers(0, BUCKETS - 1))
LEVELS_OF_BOTH = st.builds(Level, st.sampled_from(["vcpu", "vm"]), st.sampled_from(["vcpu", "vm"]))


@settings(deadline=None)
@given(LEVELS_OF_BOTH, st.lists(COUNTS | st.sampled_from(FORMATS), max_size=20))
def test_every_page_is_what_a_new_exporter_would_serve(level: Level, steps: list[tuple[int, int, int] | str]) -> None:
    host, made, exposition = Host(level), metrics(level), pages.exposition()
    for step in [*FORMATS, *steps, *FORMATS]:
        if isinstance(step, str):
            assert page(made, exposition, host.vcpus(), step) == host.fresh(step)
        else:
            host.count(*step)


def series_pieces(made: Metrics, exposition: Exposition, vcpus: list[Identified], accept: str) -> list[bytes]:
    """The pieces of a page that are of the series of counters and histograms."""
    made.update(vcpus, [])
    families = made.families(vcpus)
    if accept == PROTOBUF:
        return [piece for piece in exposition._protobuf.render(families) if b"HLT" in piece or b"CPUID" in piece]
    pieces = exposition._text.render(families, openmetrics=accept == OPENMETRICS)
    return [piece for piece in pieces if b"HLT" in piece or b"CPUID" in piece]


@pytest.mark.parametrize("accept", FORMATS)
def test_what_did_not_change_is_the_same_object(accept: str) -> None:
    halt, cpuid = cell(Space.VMX, 12, 5, {10: 5}, 50), cell(Space.VMX, 10, 2, {11: 2}, 60)
    made, exposition = metrics(), pages.exposition()
    first = series_pieces(made, exposition, of(WEB, record(100, 101, halt, cpuid)), accept)
    again = series_pieces(made, exposition, of(WEB, record(100, 101, halt, cpuid)), accept)
    assert len(first) == 4  # counter and histogram of both reasons
    assert all(one is other for one, other in zip(first, again))

    more = cell(Space.VMX, 10, 3, {11: 3}, 70)
    changed = series_pieces(made, exposition, of(WEB, record(100, 101, halt, more)), accept)
    assert [one is other for one, other in zip(first, changed)] == [b"HLT" in piece for piece in first]
    assert all(one != other for one, other in zip(first, changed) if b"CPUID" in one)


def test_the_formats_do_not_drop_each_others_pieces() -> None:
    vcpus = of(WEB, record(100, 101, cell(Space.VMX, 12, 5, {10: 5}, 50)))
    made, exposition = metrics(), pages.exposition()
    pieces = {accept: series_pieces(made, exposition, vcpus, accept) for accept in FORMATS}
    for accept in (PROTOBUF, TEXT, OPENMETRICS):
        again = series_pieces(made, exposition, vcpus, accept)
        assert [one is other for one, other in zip(pieces[accept], again)] == [True, True]
    # The two text formats share them.
    assert [one is other for one, other in zip(pieces[TEXT], pieces[OPENMETRICS])] == [True, True]
