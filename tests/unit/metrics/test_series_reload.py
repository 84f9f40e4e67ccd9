"""A change of what is served: a series that was there before goes on from its value, exactly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.config.options import Reasons
from exporter.metrics.kvm import Identified
from exporter.metrics.series import OTHER, ReasonFilter
from exporter.metrics.tables import GuestTime, SeriesTable
from exporter.model.records import ThreadKey
from tests.support.exits import NAME, WEB, cell, of, record, snapshots
from tests.unit.metrics.test_series import LISTS, held

LEVELS = st.sampled_from(["vcpu", "vm"])


@given(snapshots(), LISTS, LISTS, LEVELS, st.booleans())
def test_what_stays_has_the_same_value(
    vcpus: list[Identified], deny: list[str], deny_then: list[str], level: str, userspace: bool
) -> None:
    old = SeriesTable(level, ReasonFilter(NAME, Reasons(deny=tuple(deny))), userspace=userspace)
    new = SeriesTable(level, ReasonFilter(NAME, Reasons(deny=tuple(deny_then))), userspace=userspace)
    for each, vcpu in vcpus:
        old.update(each, vcpu)
        new.update(each, vcpu)
    before, plain = held(old), held(new)
    new.continue_from(old)
    after = held(new)
    assert after == {labels: before.get(labels, total) for labels, total in plain.items()}


def test_it_grows_by_what_comes_and_never_falls() -> None:
    """HLT 12, CPUID 10, EPT_VIOLATION 48 of one vCPU; "other" holds two of them, then one, then all three."""
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
    assert sorted(count for _, count in others) == [101, 211]  # by class: idle, and sysreg

    new = SeriesTable("vm", ReasonFilter(NAME, Reasons(allow=("CPUID",))), userspace=False)
    new.update(*one)
    new.continue_from(old)
    assert {labels[2]: total.exits for labels, total in held(new).items()} == {OTHER: 101, "CPUID": 211}
    more = cell(1, 12, 104, {3: 103, 5: 1}, 1500)
    (later,) = of(WEB, record(100, 101, more, cpuid))
    new.update(*later)
    (other,) = (total for labels, total in held(new).items() if labels[2] == OTHER)
    assert (other.exits, other.sum_ns, other.counts[3], other.counts[5]) == (104, 1500, 103, 1)


def test_what_ended_threads_counted_is_carried_over() -> None:
    """At level vm a sum outlives its threads: the new table never saw the one that is gone."""
    first, second = cell(1, 12, 101, {3: 101}, 1010), cell(1, 12, 211, {4: 211}, 2110)
    gone, stays = of(WEB, record(100, 101, first), record(100, 102, second))
    old, new = (SeriesTable("vm", NAME, userspace=False) for _ in range(2))
    for each in (gone, stays):
        old.update(*each)
    old.forget([gone[0].key])
    new.update(*stays)
    new.continue_from(old)
    (total,) = held(new).values()
    assert (total.exits, total.sum_ns, total.counts[3], total.counts[4]) == (312, 3120, 101, 211)
    new.forget([stays[0].key])
    assert held(new) == {}


def test_guest_time_too() -> None:
    gone, stays = of(WEB, record(100, 101, guest_ns=1009), record(100, 102, guest_ns=503))
    old, new = GuestTime("vm"), GuestTime("vm")
    for each in (gone, stays):
        old.update(*each)
    old.forget([ThreadKey(100, 101, 1)])
    new.update(*stays)
    new.continue_from(old)
    assert list(new.totals().values()) == [1512]
    (later,) = of(WEB, record(100, 102, guest_ns=600))[:1]
    new.update(*later)
    assert list(new.totals().values()) == [1609]
