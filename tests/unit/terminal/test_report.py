"""The report about two readings, in each form: its rows, and the notes about missing rows."""

from __future__ import annotations

import json

import pytest

from exporter.readings.grouping import Filters
from exporter.readings.reading import USERSPACE, InProgress, Reading, nothing
from exporter.terminal import report
from exporter.terminal.output import Output
from tests.support.readings import SECOND, counted, reading, thread

STUCK = InProgress("EC_DABT_LOW", "mmio", 90 * SECOND)


def output(form: str = "table", *, limit: int | None = None, userspace: bool = False, **filters: object) -> Output:
    return Output(form, Filters(**filters), "time", limit, userspace)  # type: ignore[arg-type]


def printed(output: Output, then: Reading, now: Reading) -> list[tuple[str, str, int]]:
    """Return thread, reason and count of each printed row."""
    said = report.text(output, "x", then, now, first=False, heading=False)
    if output.form == "json":
        return [
            (str(vcpu["tid"]), row["reason"], row["exits"])
            for vcpu in json.loads(said)["vcpus"]
            for row in vcpu["reasons"] or [{"reason": "", "exits": 0}]
        ]
    lines = [line.split() for line in said.splitlines()[1:]]
    return [(line[1], line[4], int(line[5])) for line in lines]


def notes(output: Output, then: Reading, now: Reading) -> list[str]:
    return report.notes(output, then, now, "is a VM running?")


def at(n: int, *, stuck: bool = True, busy: bool = True, idle: bool = True) -> Reading:
    """Return the reading of second n. One vCPU stays in an exit, one has 101 exits a second, and one is always idle."""
    age = (90 + n) * SECOND
    vcpus = [
        (
            stuck,
            thread(1, 11, counted("EC_DABT_LOW", "mmio", 1), in_progress=InProgress("EC_DABT_LOW", "mmio", age)),
        ),
        (busy, thread(1, 12, counted("IRQ", "interrupt", 101 * n, {52: 101 * n}, 1009 * n), vcpu="1")),
        (
            idle,
            thread(1, 13, counted("EC_WFx", "idle", 1), vcpu="2", in_progress=InProgress("EC_WFx", "idle", age)),
        ),
    ]
    return reading(n, *(vcpu for there, vcpu in vcpus if there))


def test_the_limit_counts_only_printed_rows() -> None:
    """The vCPU that lost the most time has no row, because it had no new exit."""
    assert printed(output(limit=1), at(1), at(2)) == [("12", "IRQ", 101)]


def test_the_note_names_a_vcpu_that_stays_in_an_exit() -> None:
    """The table has only exits that began in the run.

    The note names an exit that began before the run and has not ended.
    """
    said = "in no row, because the exit began earlier: tid 11 (CPU 0/KVM of web-1) EC_DABT_LOW 5.00s"
    assert report.held(output(), at(1), at(6)) == said
    assert report.held(output(), at(1, busy=False, idle=False), at(6, busy=False, idle=False)) == said
    assert report.held(output(reasons=frozenset(["EC_DABT_LOW"])), at(1), at(6)) == said
    assert report.held(output(reasons=frozenset(["IRQ"])), at(1), at(6)) == ""
    assert report.held(output("csv"), at(1), at(6)) == report.held(output("json"), at(1), at(6)) == ""
    assert notes(output(), at(1, busy=False), at(6, busy=False)) == []


def test_the_note_names_an_idle_vcpu_only_if_there_is_no_row() -> None:
    said = "in no row, because the exit began earlier: tid 13 (CPU 2/KVM of web-1) EC_WFx 5.00s"
    assert report.held(output(), at(1, stuck=False), at(6, stuck=False)) == ""
    alone = at(1, stuck=False, busy=False), at(6, stuck=False, busy=False)
    assert report.held(output(), *alone) == said
    assert notes(output(), *alone) == []


def test_an_exit_that_began_before_the_run_has_no_row() -> None:
    """One second of the exit was in the run. The note names the exit, because the table has no other row."""
    ended = thread(1, 12, counted("IRQ", "interrupt", 1, {120: 1}, 4 * SECOND), vcpu="1")
    began = ended._replace(
        reasons=[counted("IRQ", "interrupt", 1)], in_progress=InProgress("IRQ", "interrupt", 3 * SECOND)
    )
    said = "in no row, because the exit began earlier: tid 12 (CPU 1/KVM of web-1) IRQ 1.00s"
    assert report.held(output(), reading(1, began), reading(3, ended)) == said
    assert printed(output(), reading(1, began), reading(3, ended)) == []
    assert printed(output("json"), reading(1, began), reading(3, ended)) == [("12", "IRQ", 0)]


def test_the_note_names_only_three_of_many_vcpus() -> None:
    vcpus = [thread(1, 20 + n, counted("EC_DABT_LOW", "mmio", 1), in_progress=STUCK) for n in range(7)]
    later = [vcpu._replace(in_progress=STUCK._replace(age_ns=92 * SECOND)) for vcpu in vcpus]
    said = report.held(output(), reading(1, *vcpus), reading(3, *later))
    assert said.startswith("in no row, because the exit began earlier: tid 20 ")
    assert said.endswith(" EC_DABT_LOW 2.00s, 4 more")
    assert said.count("tid ") == 3


BOTH = reading(
    2,
    thread(1, 12, counted("IRQ", "interrupt", 5), counted("KVM_EXIT_IO", "pio", 3, kind=USERSPACE)),
    thread(1, 13, counted("EC_WFx", "idle", 7), vcpu="1"),
    thread(1, 14, counted("KVM_EXIT_MMIO", "mmio", 2, kind=USERSPACE), vcpu="2"),
    thread(1, 15, guest_ns=SECOND, vcpu="3"),
)
BEFORE = nothing(0)
IRQ, IO, MMIO, WFX = ("12", "IRQ", 5), ("12", "KVM_EXIT_IO", 3), ("14", "KVM_EXIT_MMIO", 2), ("13", "EC_WFx", 7)


@pytest.mark.parametrize(
    ("chosen", "rows"),
    [
        (output("json"), [IRQ, IO, MMIO, WFX, ("15", "", 0)]),
        (output("json", userspace=True), [IO, MMIO]),
        (output("json", userspace=True, limit=1), [IO]),
        (output("json", limit=2), [IRQ, IO]),
        (output("json", reasons=frozenset(["KVM_EXIT_MMIO", "EC_WFx"])), [MMIO, WFX]),
        (output("json", no_idle=True), [IRQ, IO, MMIO]),
        (output(userspace=True), [IO, MMIO]),
    ],
)
def test_each_form_prints_the_expected_kinds_of_reasons(chosen: Output, rows: list[tuple[str, str, int]]) -> None:
    assert printed(chosen, BEFORE, BOTH) == rows
    assert notes(chosen, BEFORE, BOTH) == []


def test_notes_are_only_about_the_printed_kinds_of_reasons() -> None:
    userspace = reading(2, BOTH.vcpus[2])
    assert notes(output("json"), BEFORE, userspace) == []
    assert notes(output("json", reasons=frozenset(["KVM_EXIT_MMIO"])), BEFORE, BOTH) == []
    assert notes(output(), BEFORE, userspace) == ["no exit was seen: is a VM running?"]
    asked = frozenset(["IRQ"])
    assert notes(output("json", userspace=True, reasons=asked), BEFORE, BOTH) == [
        "no exit matches --reason; seen: KVM_EXIT_IO, KVM_EXIT_MMIO"
    ]
    assert notes(output("json", reasons=frozenset(["X"])), BEFORE, BOTH) == [
        "no exit matches --reason; seen: EC_WFx, IRQ, KVM_EXIT_IO, KVM_EXIT_MMIO"
    ]
