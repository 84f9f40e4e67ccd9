"""The rows of a difference are filtered, summed and sorted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.model.records import TimeParts
from exporter.readings.difference import between
from exporter.readings.grouping import SORT_KEYS, Filters, grouped, ordered
from tests.support.readings import SECOND, counted, reading, thread
from tests.unit.readings.rows import NOTHING, shown

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
def test_a_filter_of_reasons_does_not_change_shares(filters: Filters) -> None:
    """A share is relative to the time of all chosen vCPUs.

    Threads 11 and 12 are of one VM. Threads 21 and 31 are of two other VMs.
    """
    span = filters.apply(SPAN)
    assert len(span.vcpus) == len(SPAN.vcpus) == 4
    (by_vm,) = [row for row in grouped(span, by="vm") if row.reason == "IRQ"]
    (by_reason,) = [row for row in grouped(span, by="reason") if row.reason == "IRQ"]
    assert (by_vm.span_ns, by_reason.span_ns) == (20 * SECOND, 40 * SECOND)
    (one,) = grouped(replace(filters, vcpus=frozenset(["1"])).apply(SPAN), by="reason")
    assert one.span_ns == 10 * SECOND


def test_idle_reasons_come_last_whatever_the_order() -> None:
    by = {key: [(row.tid, row.reason) for row in ordered(SPAN.rows(), key)] for key in SORT_KEYS}
    idle = [(31, "WFx"), (11, "WFx")]
    assert by == {
        "time": [(12, "IRQ"), (21, "MMIO"), (11, "IRQ"), *idle],
        "count": [(21, "MMIO"), (12, "IRQ"), (11, "IRQ"), *idle],
        "avg": [(12, "IRQ"), (11, "IRQ"), (21, "MMIO"), *idle],
        "p50": [(12, "IRQ"), (11, "IRQ"), (21, "MMIO"), *idle],
        "p99": [(12, "IRQ"), (11, "IRQ"), (21, "MMIO"), *idle],
        "max": [(12, "IRQ"), (11, "IRQ"), (21, "MMIO"), *idle],
        **{key: [(21, "MMIO"), (11, "IRQ"), (12, "IRQ"), *idle] for key in ("wait", "sleep", "vmm")},
        "vm": [(21, "MMIO"), (11, "IRQ"), (12, "IRQ"), *idle],
        "reason": [(11, "IRQ"), (12, "IRQ"), (21, "MMIO"), *idle],
    }
    assert [row.tid for row in ordered(SPAN.rows(), "count", reverse=True)] == [11, 12, 21, 11, 31]
    assert [row.tid for row in ordered(SPAN.rows(), "reason", reverse=True)] == [21, 11, 12, 31, 11]
    assert [row.tid for row in ordered(SPAN.rows(), "vm", reverse=True)] == [12, 11, 21, 11, 31]


def test_rows_are_summed_by_vm_and_by_reason() -> None:
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


def test_vcpus_are_sorted_by_their_number() -> None:
    vcpus = [thread(1, 100 - n, counted("IRQ", "interrupt", 1), vcpu=str(n)) for n in (10, 9, 1, 2)]
    rows = ordered(between(NOTHING, reading(1, *vcpus)).rows(), "vm")
    assert [row.vcpu for row in rows] == ["1", "2", "9", "10"]


def test_parts_are_summed_and_sorted() -> None:
    web = thread(
        1,
        11,
        counted("IRQ", "interrupt", 2, {50: 2}, 97, parts=TimeParts(7, 18, 0)),
        counted("MMIO", "mmio", 3, {50: 3}, 89, parts=TimeParts(13, 13, 0)),
    )
    other = thread(1, 12, counted("IRQ", "interrupt", 5, {60: 5}, 101, parts=TimeParts(3, 32, 0)), vcpu="1")
    rows = grouped(between(NOTHING, reading(1, web, other)), by="vm")
    assert {row.reason: row.parts for row in rows} == {"IRQ": TimeParts(10, 50, 0), "MMIO": TimeParts(13, 13, 0)}
    assert [row.reason for row in ordered(rows, "wait")] == ["MMIO", "IRQ"]
    assert [row.reason for row in ordered(rows, "sleep")] == ["IRQ", "MMIO"]


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    known = thread(1, 11, counted("IRQ", "interrupt", 2, {50: 2}, 97, parts=TimeParts(7, 18, 0)))
    unknown = thread(1, 12, counted("IRQ", "interrupt", 5, {60: 5}, 101), vcpu="1")
    for threads in ((known, unknown), (unknown, known)):
        (row,) = grouped(between(NOTHING, reading(1, *threads)), by="vm")
        assert row.parts is None
