"""Differences of readings, filters, order, sums, percentiles."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from exporter.model.buckets import bound_ns
from exporter.readings import reading as document
from exporter.readings.difference import ReadingSpan, ReasonDifference, between
from exporter.readings.grouping import SORT_KEYS, Filters, grouped, ordered
from exporter.readings.reading import USERSPACE, InProgress
from tests.support.machine import bucket
from tests.support.readings import SECOND, counted, reading, thread

NOTHING = document.nothing(0)


def shown(rows: list[ReasonDifference]) -> list[tuple[int, str, int]]:
    return [(row.tid, row.reason, row.exits) for row in rows]


@pytest.mark.parametrize("number", range(141))
def test_a_bound_is_the_longest_time_of_its_bucket(number: int) -> None:
    """By the definition that the program is tested with, and by fractions: bound^4 <= 2^k s^4 < (bound + 1)^4."""
    bound = bound_ns(number)
    assert bound is not None
    assert (bucket(bound), bucket(bound + 1)) == (number, number + 1)
    assert bound**4 <= Fraction(2) ** (number - 92) * 10**36 < (bound + 1) ** 4


def test_percentiles() -> None:
    """1 in bucket 3, 97 in 10, 1 in 20, 1 in 30: the 99th of a hundred is in 20."""
    buckets = {3: 1, 10: 97, 20: 1, 30: 1}
    (row,) = between(NOTHING, reading(1, thread(1, 2, counted("IRQ", "interrupt", 101, buckets, 100_003)))).rows()
    assert (row.completed, row.avg_ns) == (100, 1000)
    assert [row.percentile_ns(percent) for percent in (1, 2, 50, 98, 99, 100)] == [
        bound_ns(number) for number in (3, 10, 10, 10, 20, 30)
    ]
    assert (row.p50_ns, row.p99_ns, row.max_ns) == (bound_ns(10), bound_ns(20), bound_ns(30))


def test_no_interval_and_one_without_bound() -> None:
    none, endless = counted("A", "other", 1), counted("B", "other", 1, {141: 1}, 5000 * SECOND)
    first, second = between(NOTHING, reading(1, thread(1, 2, none, endless))).rows()
    assert (first.avg_ns, first.p50_ns, first.p99_ns, first.max_ns) == (None, None, None, None)
    assert (second.avg_ns, second.max_ns) == (5000 * SECOND, 5000 * SECOND)


def test_the_difference_of_two_readings() -> None:
    then = reading(10, thread(1, 2, counted("IRQ", "interrupt", 5, {40: 3}, 30), guest_ns=7))
    now = reading(
        12.5,
        thread(1, 2, counted("IRQ", "interrupt", 18, {40: 14, 41: 2}, 133), counted("HLT", "idle", 1), guest_ns=20),
        thread(1, 3, counted("IRQ", "interrupt", 3, {40: 3}, 9)),
    )
    span = between(then, now)
    assert span.elapsed_ns == 2.5 * SECOND
    assert [vcpu.guest_ns for vcpu in span.vcpus] == [13, 0]
    irq, halt, other = span.rows()
    assert (irq.exits, irq.sum_ns, irq.buckets, irq.avg_ns, irq.rate) == (13, 103, {40: 11, 41: 2}, 7, 5.2)
    assert (halt.exits, halt.completed, halt.avg_ns) == (1, 0, None)
    assert (other.tid, other.exits, other.rate) == (3, 3, 1.2)


def test_time_is_what_lay_within() -> None:
    """An exit of 100 s that ends in a run of 2 s took 1.5 s of it; one that goes on takes the rest."""
    then = reading(
        100,
        thread(1, 2, counted("HLT", "idle", 1), in_progress=InProgress("HLT", "idle", round(98.5 * SECOND))),
    )
    now = reading(
        102,
        thread(
            1,
            2,
            counted("HLT", "idle", 1, {120: 1}, 100 * SECOND),
            counted("MMIO", "mmio", 1),
            in_progress=InProgress("MMIO", "mmio", SECOND // 2),
        ),
    )
    halt, mmio = between(then, now).rows()
    assert (halt.exits, halt.completed, halt.time_ns, halt.share) == (0, 1, round(1.5 * SECOND), 0.75)
    assert (mmio.exits, mmio.completed, mmio.time_ns, mmio.share) == (1, 0, SECOND // 2, 0.25)
    stuck = reading(103, *[each._replace(in_progress=InProgress("MMIO", "mmio", 1500000000)) for each in now.vcpus])
    (row,) = between(now, stuck).rows()
    assert (row.reason, row.exits, row.share) == ("MMIO", 0, 1.0)


def test_userspace_returns_are_apart() -> None:
    both = thread(1, 2, counted("IRQ", "interrupt", 3), counted("KVM_EXIT_IO", "pio", 2, {1: 1}, 5, kind=USERSPACE))
    span = between(NOTHING, reading(1, both))
    assert shown(span.rows()) == [(2, "IRQ", 3)]
    assert shown(span.rows(USERSPACE)) == [(2, "KVM_EXIT_IO", 2)]
    assert shown(grouped(span, USERSPACE, "reason")) == [(0, "KVM_EXIT_IO", 2)]


def test_a_vcpu_that_is_gone_keeps_its_last_values() -> None:
    run = ReadingSpan(NOTHING)
    run.add(reading(1, thread(1, 2, counted("IRQ", "interrupt", 3)), thread(1, 3, counted("IRQ", "interrupt", 5))))
    last = run.add(reading(2, thread(1, 3, counted("IRQ", "interrupt", 7))))
    assert sorted(shown(between(run.first, run.last).rows())) == [(2, "IRQ", 3), (3, "IRQ", 7)]
    assert [thread.alive for thread in last.vcpus] == [True, False]
    later = run.add(reading(3, thread(1, 3, counted("IRQ", "interrupt", 7))))
    assert between(last, later).rows() == []
    assert [vcpu.thread.key.tid for vcpu in between(last, later).vcpus] == [3]
    assert sorted(shown(between(run.first, run.last).rows())) == [(2, "IRQ", 3), (3, "IRQ", 7)]


def test_what_ended_before_the_run_is_not_in_it() -> None:
    ended = thread(1, 2, counted("IRQ", "interrupt", 3), alive=False)
    assert between(reading(1, ended), reading(2, ended._replace())).vcpus == []


def test_an_exporter_that_restarted() -> None:
    """Its counts begin anew, and what was read before stays."""
    run = ReadingSpan(
        reading(5, thread(1, 2, counted("IRQ", "interrupt", 100), born_ns=1), counters={"dropped_no_slot": 9})
    )
    run.add(reading(6, thread(1, 2, counted("IRQ", "interrupt", 103), born_ns=1), counters={"dropped_no_slot": 9}))
    run.add(
        reading(
            1,
            thread(1, 2, counted("IRQ", "interrupt", 7), born_ns=SECOND * 6),
            since_ns=6 * SECOND,
            counters={"dropped_no_slot": 2},
        )
    )
    assert shown(grouped(between(run.first, run.last))) == [(2, "IRQ", 10)]
    assert between(run.first, run.last).counters == {"dropped_no_slot": 2}


WEB_DB = reading(
    10,
    thread(1, 11, counted("IRQ", "interrupt", 2, {50: 2}, 200), counted("WFx", "idle", 9, {90: 9}, 900), vm="web"),
    thread(1, 12, counted("IRQ", "interrupt", 3, {60: 3}, 900), vm="web", vcpu="1"),
    thread(2, 21, counted("MMIO", "mmio", 40, {40: 40}, 400), vm="w", vcpu="10"),
    thread(3, 31, counted("WFx", "idle", 50, {99: 50}, 99999), vm=None, vcpu=""),
)
SPAN = between(NOTHING, WEB_DB)


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        (Filters(), [(11, "IRQ", 2), (11, "WFx", 9), (12, "IRQ", 3), (21, "MMIO", 40), (31, "WFx", 50)]),
        (Filters(pids=frozenset([1])), [(11, "IRQ", 2), (11, "WFx", 9), (12, "IRQ", 3)]),
        (Filters(tids=frozenset([12, 21, 1])), [(12, "IRQ", 3), (21, "MMIO", 40)]),
        (Filters(vms=frozenset(["w"])), [(21, "MMIO", 40)]),
        (Filters(vms=frozenset(["3"])), [(31, "WFx", 50)]),
        (Filters(vcpus=frozenset(["1"])), [(12, "IRQ", 3)]),
        (Filters(vcpus=frozenset(["10", "1"])), [(12, "IRQ", 3), (21, "MMIO", 40)]),
        (Filters(reasons=frozenset(["WFx", "IR"])), [(11, "WFx", 9), (31, "WFx", 50)]),
        (Filters(no_idle=True), [(11, "IRQ", 2), (12, "IRQ", 3), (21, "MMIO", 40)]),
        (Filters(pids=frozenset([1]), vcpus=frozenset(["1"]), no_idle=True), [(12, "IRQ", 3)]),
        (Filters(pids=frozenset([1]), vms=frozenset(["w"])), []),
    ],
)
def test_filters_compare_whole_values(filters: Filters, rows: list[tuple[int, str, int]]) -> None:
    assert shown(filters.apply(SPAN).rows()) == rows


@pytest.mark.parametrize("filters", [Filters(reasons=frozenset(["IRQ"])), Filters(no_idle=True)])
def test_a_share_is_of_the_vcpus_whatever_the_reasons(filters: Filters) -> None:
    """Only which vCPUs are asked for changes what it is a part of: 11 and 12 are of one VM, 21 and 31 of others."""
    span = filters.apply(SPAN)
    assert len(span.vcpus) == len(SPAN.vcpus) == 4
    (by_vm,) = [row for row in grouped(span, by="vm") if row.reason == "IRQ"]
    (by_reason,) = [row for row in grouped(span, by="reason") if row.reason == "IRQ"]
    assert (by_vm.span_ns, by_reason.span_ns) == (20 * SECOND, 40 * SECOND)
    (one,) = grouped(replace(filters, vcpus=frozenset(["1"])).apply(SPAN), by="reason")
    assert one.span_ns == 10 * SECOND


def test_idle_is_last_whatever_the_order() -> None:
    by = {key: [(row.tid, row.reason) for row in ordered(SPAN.rows(), key)] for key in SORT_KEYS}
    idle = [(31, "WFx"), (11, "WFx")]
    assert by == {
        "time": [(12, "IRQ"), (21, "MMIO"), (11, "IRQ"), *idle],
        "count": [(21, "MMIO"), (12, "IRQ"), (11, "IRQ"), *idle],
        "avg": [(12, "IRQ"), (11, "IRQ"), (21, "MMIO"), *idle],
        "p50": [(12, "IRQ"), (11, "IRQ"), (21, "MMIO"), *idle],
        "p99": [(12, "IRQ"), (11, "IRQ"), (21, "MMIO"), *idle],
        "max": [(12, "IRQ"), (11, "IRQ"), (21, "MMIO"), *idle],
        "vm": [(21, "MMIO"), (11, "IRQ"), (12, "IRQ"), *idle],
        "reason": [(11, "IRQ"), (12, "IRQ"), (21, "MMIO"), *idle],
    }
    assert [row.tid for row in ordered(SPAN.rows(), "count", reverse=True)] == [11, 12, 21, 11, 31]
    assert [row.tid for row in ordered(SPAN.rows(), "reason", reverse=True)] == [21, 11, 12, 31, 11]
    assert [row.tid for row in ordered(SPAN.rows(), "vm", reverse=True)] == [12, 11, 21, 11, 31]


def test_sums_by_vm_and_reason() -> None:
    by_vm = {(row.pid, row.vm, row.reason): row for row in grouped(SPAN, by="vm")}
    assert {key: row.exits for key, row in by_vm.items()} == {
        (1, "web", "IRQ"): 5,
        (1, "web", "WFx"): 9,
        (2, "w", "MMIO"): 40,
        (3, "3", "WFx"): 50,
    }
    irq = by_vm[1, "web", "IRQ"]
    assert (irq.sum_ns, irq.buckets, irq.avg_ns, irq.span_ns) == (1100, {50: 2, 60: 3}, 220, 20 * SECOND)
    by_reason = {row.reason: row for row in grouped(SPAN, by="reason")}
    assert {reason: row.exits for reason, row in by_reason.items()} == {"IRQ": 5, "WFx": 59, "MMIO": 40}
    assert by_reason["WFx"].span_ns == 40 * SECOND


def test_vcpus_are_in_numerical_order() -> None:
    vcpus = [thread(1, 100 - n, counted("IRQ", "interrupt", 1), vcpu=str(n)) for n in (10, 9, 1, 2)]
    rows = ordered(between(NOTHING, reading(1, *vcpus)).rows(), "vm")
    assert [row.vcpu for row in rows] == ["1", "2", "9", "10"]
