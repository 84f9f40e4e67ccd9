"""The exact text of the table, of CSV and of JSON."""

from __future__ import annotations

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from exporter.model.buckets import bound_ns
from exporter.model.records import TimeParts
from exporter.readings.difference import between
from exporter.readings.grouping import Filters, grouped, ordered
from exporter.readings.reading import USERSPACE, InProgress, nothing
from exporter.terminal.table import CSV_COLUMNS, csv_lines, json_line, table
from exporter.terminal.text import width
from tests.support.readings import counted, reading, thread

HOSTILE = "\x1b[2J\x07\u202e\ud800e\u0301\x7f\n"
SPAN = between(
    nothing(0),
    reading(
        4,
        thread(1201, 1207, counted("EC_WFx", "idle", 101, {90: 100}, 101_000_000_000)),
        thread(
            1201,
            1208,
            counted("EC_DABT_LOW", "mmio", 1009, {40: 1009}, 12_345_678, parts=TimeParts(7919, 104_648, 0)),
            vcpu="1",
        ),
        thread(1201, 1208, counted("EC_HVC64", "hypercall", 1), vcpu="1", born_ns=2),
        thread(4194303, 4194301, counted("UNKNOWN_0x1f", "other", 7, {10: 7}, 700), comm=HOSTILE, vm=HOSTILE),
    ),
)

GOLDEN = """\
TGID     TID      COMM                                 KVM_EXIT_REASON               COUNT AVG_TIME (ns)
1201     1208     CPU 1/KVM                            EC_DABT_LOW                    1009         12235
4194303  4194301  \\x1b[2J\\x07\\u202e\\ud800e\\u0301\\x7f\\n UNKNOWN_0x1f                      7           100
1201     1208     CPU 1/KVM                            EC_HVC64                          1             -
1201     1207     CPU 0/KVM                            EC_WFx                          101    1010000000
"""


def test_the_table_has_this_exact_text() -> None:
    assert table(ordered(grouped(SPAN))) == GOLDEN


def test_a_table_without_rows_is_its_header() -> None:
    header = "TGID     TID      COMM             KVM_EXIT_REASON               COUNT AVG_TIME (ns)\n"
    assert table([]) == header


def test_csv_has_this_exact_text() -> None:
    rows = ordered(grouped(Filters(tids=frozenset([1208, 1207])).apply(SPAN)))
    said = csv_lines(rows, 1700000000.25, header=True)
    bound40, bound90 = bound_ns(40), bound_ns(90)
    assert said == (
        "time,seconds,tgid,tid,comm,vm,vcpu,kind,reason,class,count,rate,time_ns,share,avg_ns,p50_ns,p99_ns,max_ns,"
        "wait_ns,sleep_ns,vmm_ns\n"
        "1700000000.250,4.000000,1201,1208,CPU 1/KVM,web-1,1,exit,EC_DABT_LOW,mmio,1009,252.250,12345678,0.003086,"
        f"12235,{bound40},{bound40},{bound40},7919,96729,0\n"
        "1700000000.250,4.000000,1201,1208,CPU 1/KVM,web-1,1,exit,EC_HVC64,hypercall,1,0.250,0,0.000000,,,,,,,\n"
        "1700000000.250,4.000000,1201,1207,CPU 0/KVM,web-1,0,exit,EC_WFx,idle,101,25.250,101000000000,1.000000,"
        f"1010000000,{bound90},{bound90},{bound90},,,\n"
    )
    assert csv_lines(rows, 0, header=False).count("\n") == 3


@given(st.text(max_size=20), st.text(max_size=20))
def test_csv_is_printable_and_is_read_back(comm: str, vm: str) -> None:
    span = between(nothing(0), reading(1, thread(1, 2, counted("IRQ", "interrupt", 3), comm=comm, vm=vm)))
    said = csv_lines(span.rows(), 0, header=True)
    assert all(line.isprintable() for line in said.split("\n"))
    header, row = csv.reader(io.StringIO(said))
    assert header == list(CSV_COLUMNS)
    assert len(row) == len(header)
    assert row[10] == "3"


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_the_table_is_printable_and_aligned(comms: list[str]) -> None:
    vcpus = [
        thread(1, 10 + at, counted("IRQ", "interrupt", 3), comm=comm or "x", vm=None) for at, comm in enumerate(comms)
    ]
    lines = table(between(nothing(0), reading(1, *vcpus)).rows()).split("\n")
    assert all(line.isprintable() for line in lines)
    assert len({width(line) for line in lines if line}) == 1


def test_json_has_each_vcpu_with_its_reasons() -> None:
    vcpus = [
        thread(
            1,
            2,
            counted("A", "other", 4, {10: 2}, 8, parts=TimeParts(2, 5, 0)),
            counted("K", "pio", 1, kind=USERSPACE),
            vm=HOSTILE,
            wait_ns=13,
        ),
        thread(
            1,
            3,
            counted("B", "mmio", 1),
            vcpu="1",
            guest_ns=77,
            in_progress=InProgress("B", "mmio", 500),
        ),
        thread(1, 4, guest_ns=9, vcpu="2"),
    ]
    span = between(nothing(0), reading(2, *vcpus, counters={"dropped_no_slot": 5}))
    rows = ordered([*span.rows(), *span.rows(USERSPACE)])
    said = json_line(span, rows, {"replay": False})
    assert all(0x20 <= ord(character) < 0x7F for character in said[:-1])
    made = json.loads(said)
    assert {key: value for key, value in made.items() if key != "vcpus"} == {
        "version": 1,
        "replay": False,
        "elapsed_ns": 2_000_000_000,
        "counters": {"dropped_no_slot": 5},
    }
    assert [vcpu["tid"] for vcpu in made["vcpus"]] == [3, 2, 4]
    assert [vcpu["guest_ns"] for vcpu in made["vcpus"]] == [77, 0, 9]
    assert [vcpu["wait_ns"] for vcpu in made["vcpus"]] == [None, None, None]
    assert made["vcpus"][1]["vm"] == HOSTILE
    assert made["vcpus"][0]["in_progress"] == {"reason": "B", "class": "mmio", "age_ns": 500}
    assert made["vcpus"][1]["reasons"] == [
        {
            "kind": "exit",
            "reason": "A",
            "class": "other",
            "exits": 4,
            "sum_ns": 8,
            "wait_ns": 2,
            "sleep_ns": 3,
            "vmm_ns": 0,
            "buckets": [[10, 2]],
            "time_ns": 8,
            "share": 0.0,
            "rate": 2.0,
            "avg_ns": 4,
            "p50_ns": bound_ns(10),
            "p99_ns": bound_ns(10),
            "max_ns": bound_ns(10),
        },
        {
            "kind": "userspace",
            "reason": "K",
            "class": "pio",
            "exits": 1,
            "sum_ns": 0,
            "wait_ns": None,
            "sleep_ns": None,
            "vmm_ns": None,
            "buckets": [],
            "time_ns": 0,
            "share": 0.0,
            "rate": 0.5,
            "avg_ns": None,
            "p50_ns": None,
            "p99_ns": None,
            "max_ns": None,
        },
    ]
