"""Series have the sums over cells and threads.

They follow allow and deny lists, free their memory, and survive reloads.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exporter.config.options import Level, Reasons
from exporter.metrics.kvm import Identified, Metrics
from exporter.metrics.series import OTHER, ReasonFilter, Series
from exporter.metrics.tables import SeriesTable, TotalsTable
from exporter.model.reason import Space
from exporter.model.records import ThreadKey, VcpuRecord, VcpuTotals
from exporter.model.vm import Vcpu, Vm
from tests.support import exits, pages
from tests.support.exits import NAME, WEB, Labels, Total, cell, metrics, of, record, snapshots


def totals_of(table: SeriesTable) -> dict[Labels, Total]:
    found = {}
    for series in table.series():
        total = series.total()
        found[series.labels] = Total(total.exits, total.sum_ns, total.counts())
    assert len(found) == len(table.series())
    return found


# --- reasons ---


@pytest.mark.parametrize(
    ("allow", "deny", "shown"),
    [
        ([], [], ["HLT", "CPUID", "EPT_VIOLATION"]),
        (["HLT"], [], ["HLT", OTHER, OTHER]),
        ([], ["HLT"], [OTHER, "CPUID", "EPT_VIOLATION"]),
        (["HLT", "CPUID"], ["HLT"], [OTHER, "CPUID", OTHER]),
        (["nonsense"], ["nonsense"], [OTHER, OTHER, OTHER]),
    ],
)
def test_reasons_that_the_lists_exclude_are_counted_as_other(
    allow: list[str], deny: list[str], shown: list[str]
) -> None:
    reasons = ReasonFilter(NAME, Reasons(tuple(allow), tuple(deny)))
    codes = [12, 10, 48]
    assert [reasons(Space.VMX, code).name for code in codes] == shown
    assert [reasons(Space.VMX, code).klass for code in codes] == [NAME(Space.VMX, code).klass for code in codes]


ALL = [NAME(space, code).name for space in exits.SPACES for code in range(exits.CODES)]
LISTS = st.lists(st.sampled_from(ALL), max_size=6)


@given(snapshots(), LISTS, LISTS, st.sampled_from(["vcpu", "vm"]))
def test_no_count_is_lost_in_the_reason_other(
    vcpus: list[Identified], allow: list[str], deny: list[str], level: str
) -> None:
    """Each class has the same sum with and without the lists."""
    shown = ReasonFilter(NAME, Reasons(tuple(allow), tuple(deny)))
    for userspace in (False, True):
        plain, listed = (SeriesTable(level, name, userspace=userspace) for name in (NAME, shown))
        for each, vcpu in vcpus:
            plain.update(each, vcpu)
            listed.update(each, vcpu)
        assert totals_of(listed) == exits.totals(vcpus, level, shown, userspace=userspace)
        assert by_class(listed) == by_class(plain)
        reasons = {dict(zip(listed.labels, labels))["reason"] for labels in totals_of(listed)}
        assert not reasons & set(deny)
        assert not allow or reasons <= {*allow, OTHER}


def by_class(table: SeriesTable) -> dict[Labels, Total]:
    at = table.labels.index("reason")
    found: dict[Labels, Total] = {}
    for labels, total in totals_of(table).items():
        rest = labels[:at] + labels[at + 1 :]
        found[rest] = found[rest] + total if rest in found else total
    return found


# --- threads that start, count and end ---

VMS = [Vm(100, "a", "", "qemu"), Vm(100, "b", "", "qemu"), Vm(200, "a", "", "qemu")]
LEVELS = ["vcpu", "vm"]
SHOWN = ReasonFilter(NAME, Reasons((), ("HLT", "CPUID")))
Sums = dict[Labels, Any]


class Threads(RuleBasedStateMachine):
    """Compare all tables, at both levels, with plain sums over live and ended threads.

    The counts of an ended thread stay in the sum as long as a live thread has the same labels.
    """

    def __init__(self) -> None:
        super().__init__()
        tables = [(level, userspace) for level in LEVELS for userspace in (False, True)]
        self.tables = {at: SeriesTable(at[0], SHOWN, userspace=at[1]) for at in tables}
        self.guest = {level: TotalsTable("guest_ns", level) for level in LEVELS}
        self.carried: dict[object, Sums] = {at: {} for at, _ in self._all()}
        self.vcpus: dict[ThreadKey, Identified] = {}
        self.born = 0

    @rule(vm=st.sampled_from(VMS), tid=st.integers(1, 3))
    def start(self, vm: Vm, tid: int) -> None:
        self.born += 1
        self._show(record(vm.pid, vm.pid + tid, born_ns=self.born), Vcpu(vm, str(tid)))

    @precondition(lambda self: self.vcpus)
    @rule(data=st.data(), space=st.sampled_from([Space.VMX, Space.USERSPACE]), code=st.sampled_from([10, 12, 48]))
    def count(self, data: st.DataObject, space: int, code: int) -> None:
        each, vcpu = self.vcpus[data.draw(st.sampled_from(sorted(self.vcpus)))]
        found = {(one.space, one.code): one for one in each.cells}
        old = found.get((space, code), cell(space, code, 0, {}, 0))
        bucket, ns = data.draw(st.integers(0, exits.BUCKETS - 1)), data.draw(st.integers(0, 2**40))
        counts = dict(enumerate(old.counts()))
        counts[bucket] += 1
        found[space, code] = cell(space, code, old.exits + 1, counts, old.sum_ns + ns)
        totals = VcpuTotals(each.totals.guest_ns + ns)
        self._show(dataclasses.replace(each, cells=tuple(found.values()), totals=totals), vcpu)

    @precondition(lambda self: self.vcpus)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.sampled_from(sorted(self.vcpus)), min_size=1, max_size=3, unique=True))
        ended = [self.vcpus.pop(key) for key in keys]
        for at, counting in self._all():
            counting.forget(keys)
            live = self._sums(at, list(self.vcpus.values()))
            sums = added(self.carried[at], self._sums(at, ended))
            self.carried[at] = {labels: value for labels, value in sums.items() if labels in live}

    def _show(self, each: VcpuRecord, vcpu: Vcpu) -> None:
        self.vcpus[each.key] = (each, vcpu)
        for _, counting in self._all():
            counting.update(each, vcpu)

    def _all(self) -> Iterator[tuple[object, SeriesTable | TotalsTable]]:
        yield from self.tables.items()
        yield from self.guest.items()

    def _sums(self, at: object, vcpus: list[Identified]) -> Sums:
        if isinstance(at, tuple):
            return exits.totals(vcpus, at[0], SHOWN, userspace=at[1])
        return exits.total_of("guest_ns", vcpus, str(at))

    @invariant()
    def all_sums_are_right(self) -> None:
        live = list(self.vcpus.values())
        for at, table in self.tables.items():
            assert totals_of(table) == added(self.carried[at], self._sums(at, live))
        for level, guest in self.guest.items():
            assert guest.sums() == added(self.carried[level], self._sums(level, live))


def added(one: Sums, other: Sums) -> Sums:
    both = dict(one)
    for labels, value in other.items():
        both[labels] = both[labels] + value if labels in both else value
    return both


TestThreads = Threads.TestCase
TestThreads.settings = settings(max_examples=60, stateful_step_count=30)


def test_a_series_keeps_its_rendered_line_until_a_cell_changes() -> None:
    halt, cpuid = cell(Space.VMX, 12, 5, {10: 5}, 50), cell(Space.VMX, 10, 1, {1: 1}, 2)
    table, vcpu = SeriesTable("vcpu", NAME, userspace=False), Vcpu(WEB, "0")
    table.update(record(100, 101, halt, cpuid), vcpu)
    for series in table.series():
        series.counter_line = b"rendered"
    table.update(record(100, 101, halt, cpuid), vcpu)
    assert [series.counter_line for series in table.series()] == [b"rendered", b"rendered"]
    table.update(record(100, 101, halt, cell(Space.VMX, 10, 2, {1: 1}, 2)), vcpu)
    assert [series.counter_line for series in table.series()] == [b"rendered", None]


# --- memory ---


def alive() -> list[Series]:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is Series]


@pytest.mark.parametrize("level", [Level("vcpu", "vcpu"), Level("vm", "vm"), Level("vm", "vcpu")])
def test_the_end_of_a_thread_frees_its_series_and_their_caches(level: Level) -> None:
    before = len(alive())
    made, exposition = metrics(level), pages.exposition()

    def collected(first: int) -> list[Identified]:
        cells = [cell(Space.VMX, code, 1, {code: 1}, code) for code in range(10)]
        return of(WEB, *(record(100, tid, *cells, born_ns=first) for tid in range(first, first + 20)))

    def shown(vcpus: list[Identified], ended: Sequence[ThreadKey]) -> int:
        made.update(vcpus, ended)
        for accept in pages.FORMATS:
            exposition.page(made.families(vcpus), accept, "gzip")
        return len(alive()) - before

    old: list[Identified] = []
    sizes = set()
    for generation in range(5):  # after VMs have started and ended, nothing of them stays in memory
        vcpus = collected(101 + 20 * generation)
        sizes.add(shown(vcpus, [each.key for each, _ in old]))
        old = vcpus
    per_level = {"vcpu": 200, "vm": 10}
    assert sizes == {sum(per_level[each] for each in {level.counters, level.histograms, level.time})}
    assert shown([], [each.key for each, _ in old]) == 0
    assert not stored_keys(made)


def stored_keys(made: Metrics) -> list[object]:
    """Return everything that Metrics still stores of any thread."""
    tables = [*made._exits.values(), *made._userspace.values()]
    return [
        *(key for table in tables for key in table._seen),
        *(key for each in made._totals for key in (*each._threads, *each._carried)),
    ]


# --- after a reload, a series continues from its value ---


@given(snapshots(), LISTS, LISTS, st.sampled_from(LEVELS), st.booleans())
def test_a_series_keeps_its_value_over_a_reload(
    vcpus: list[Identified], deny: list[str], deny_then: list[str], level: str, userspace: bool
) -> None:
    old = SeriesTable(level, ReasonFilter(NAME, Reasons(deny=tuple(deny))), userspace=userspace)
    new = SeriesTable(level, ReasonFilter(NAME, Reasons(deny=tuple(deny_then))), userspace=userspace)
    for each, vcpu in vcpus:
        old.update(each, vcpu)
        new.update(each, vcpu)
    before, plain = totals_of(old), totals_of(new)
    new.continue_from(old)
    after = totals_of(new)
    assert after == {labels: before.get(labels, total) for labels, total in plain.items()}


def test_a_series_grows_after_a_reload_and_never_falls() -> None:
    """HLT has code 12, and CPUID has code 10. Before the reload, both are in "other", then only HLT."""
    hlt, cpuid = cell(1, 12, 101, {3: 101}, 1010), cell(1, 10, 211, {4: 211}, 2110)
    (one,) = of(WEB, record(100, 101, hlt, cpuid))
    old = SeriesTable(
        "vm",
        ReasonFilter(
            NAME,
            Reasons(
                deny=(
                    "HLT",
                    "CPUID",
                )
            ),
        ),
        userspace=False,
    )
    old.update(*one)
    others = [(total.labels, total.total().exits) for total in old.series()]
    assert {labels[2] for labels, _ in others} == {OTHER}
    assert sorted(count for _, count in others) == [101, 211]  # the classes are idle and sysreg

    new = SeriesTable("vm", ReasonFilter(NAME, Reasons(allow=("CPUID",))), userspace=False)
    new.update(*one)
    new.continue_from(old)
    assert {labels[2]: total.exits for labels, total in totals_of(new).items()} == {OTHER: 101, "CPUID": 211}
    more = cell(1, 12, 104, {3: 103, 5: 1}, 1500)
    (later,) = of(WEB, record(100, 101, more, cpuid))
    new.update(*later)
    (other,) = (total for labels, total in totals_of(new).items() if labels[2] == OTHER)
    assert (other.exits, other.sum_ns, other.counts[3], other.counts[5]) == (104, 1500, 103, 1)


def test_counts_of_ended_threads_are_kept_over_a_reload() -> None:
    """At level vm, a sum includes counts of ended threads. The new table has never seen these threads."""
    first, second = cell(1, 12, 101, {3: 101}, 1010), cell(1, 12, 211, {4: 211}, 2110)
    ended, stays = of(WEB, record(100, 101, first), record(100, 102, second))
    old, new = (SeriesTable("vm", NAME, userspace=False) for _ in range(2))
    for each in (ended, stays):
        old.update(*each)
    old.forget([ended[0].key])
    new.update(*stays)
    new.continue_from(old)
    (total,) = totals_of(new).values()
    assert (total.exits, total.sum_ns, total.counts[3], total.counts[4]) == (312, 3120, 101, 211)
    new.forget([stays[0].key])
    assert totals_of(new) == {}


def test_guest_time_of_ended_threads_is_kept_over_a_reload() -> None:
    ended, stays = of(WEB, record(100, 101, guest_ns=1009), record(100, 102, guest_ns=503))
    old, new = TotalsTable("guest_ns", "vm"), TotalsTable("guest_ns", "vm")
    for each in (ended, stays):
        old.update(*each)
    old.forget([ThreadKey(100, 101, 1)])
    new.update(*stays)
    new.continue_from(old)
    assert list(new.sums().values()) == [1512]
    (later,) = of(WEB, record(100, 102, guest_ns=600))[:1]
    new.update(*later)
    assert list(new.sums().values()) == [1609]
