"""The layout of the live view fits screens of any size. This is tested without a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.model.records import TimeParts
from exporter.readings.difference import between
from exporter.readings.grouping import GROUPS, Filters
from exporter.readings.reading import USERSPACE, nothing
from exporter.terminal import screen, text
from exporter.terminal.screen import Frame, Style
from exporter.terminal.view import TopView
from tests.support.readings import SECOND, counted, reading, thread


def frame(vm: str = "web-1", comm: str = "CPU 0/KVM", *, split: bool = False) -> Frame:
    halted, returned = TimeParts(34 * 10**7, 88 * 10**7, 0), TimeParts(2 * 10**7, 6 * 10**7, 22 * 10**7)
    vcpu = thread(
        1,
        2,
        counted("IRQ", "interrupt", 5, {50: 3}, 10**6, parts=TimeParts() if split else None),
        counted("HLT", "idle", 7, {99: 7}, 10**9, parts=halted if split else None),
        counted("KVM_EXIT_IO", "pio", 3, {60: 3}, 26 * 10**7, kind=USERSPACE, parts=returned if split else None),
        vm=vm,
        comm=comm,
        wait_ns=34 * 10**7 if split else None,
    )
    span = between(nothing(0), reading(2, vcpu))
    return Frame("12:00:00", "the exporter at http://localhost:9939", span, span)


@given(
    vm=st.text(max_size=30),
    height=st.integers(1, 60),
    columns=st.integers(1, 240),
    group=st.sampled_from(GROUPS),
    flags=st.tuples(*[st.booleans()] * 7),
)
def test_every_line_is_as_wide_as_the_screen(
    vm: str, height: int, columns: int, group: str, flags: tuple[bool, ...]
) -> None:
    view = TopView(group=group, idle=flags[0], userspace=flags[1], total=flags[2], paused=flags[3], help=flags[4])
    shown = frame(vm, split=flags[6])
    rows = screen.chosen(shown, view, None)
    lines = screen.lines(shown, view, rows, height, columns, unicode=flags[5])
    assert len(lines) == height
    for line, _ in lines:
        assert line.isprintable()
        assert text.width(line) == columns
        assert flags[5] or line.isascii()


def test_idle_rows_are_dimmed_and_the_limit_is_kept() -> None:
    shown, view = frame(), TopView()
    rows = screen.chosen(shown, view, None)
    styles = [style for _, style in screen.lines(shown, view, rows, 8, 80)]
    assert styles == [
        *(Style.TITLE, Style.PLAIN, Style.PLAIN, Style.HEADER, Style.PLAIN, Style.DIM, Style.PLAIN, Style.PLAIN)
    ]
    assert [row.reason for row in screen.chosen(shown, view, 1)] == ["IRQ"]


def test_a_filter_of_reasons_does_not_change_the_summary() -> None:
    """One of two vCPUs is in its guest all the time. --reason hides its row, but the summary includes it."""
    vcpus = (
        thread(1, 2, counted("IRQ", "interrupt", 5, {50: 5}, SECOND), counted("HLT", "idle", 7, {99: 7}, SECOND)),
        thread(1, 3, counted("HLT", "idle", 0), guest_ns=2 * SECOND, vcpu="1"),
    )
    span = Filters(reasons=frozenset(["IRQ"])).apply(between(nothing(0), reading(2, *vcpus)))
    shown = Frame("12:00:00", "x", span, span)
    said = [line.rstrip() for line, _ in screen.lines(shown, TopView(), screen.chosen(shown, TopView(), None), 24, 80)]
    assert said[1] == "2 vCPUs  2.50 exits/s  guest 50.0 %  lost 25.0 %  idle 0.0 %"


def test_the_screen_waits_for_the_first_interval() -> None:
    early = Frame("12:00:00", "x", None, between(nothing(0), nothing(0)))
    assert screen.chosen(early, TopView(), None) == []
    said = "\n".join(line for line, _ in screen.lines(early, TopView(), [], 24, 80))
    assert "waiting for the first interval" in said


def test_columns_stay_aligned_after_wide_letters() -> None:
    """An East Asian letter is two columns wide on the screen."""
    shown = frame("\u4ed9\u4eba\u638c" * 9)
    lines = [line for line, _ in screen.lines(shown, TopView(), screen.chosen(shown, TopView(), None), 24, 80)]
    assert lines[4].startswith("\u4ed9\u4eba\u638c\u4ed9\u4eba    0 IRQ")


def header(shown: Frame, view: TopView, columns: int = 80) -> list[str]:
    lines = screen.lines(shown, view, screen.chosen(shown, view, None), 24, columns)
    return lines[3][0].split()


def test_the_parts_of_the_time_have_columns_where_they_are_known() -> None:
    """On 80 columns they displace the histogram and the columns that say least."""
    old = ["VM", "VCPU", "REASON", "RATE/s", "TIME%", "AVG", "P50", "P99", "MAX", "1us..16s"]
    assert header(frame(), TopView()) == old
    vcpu = ["VM", "VCPU", "REASON", "RATE/s", "TIME%", "WAIT%", "SLEEP%", "AVG", "P50", "P99"]
    assert header(frame(split=True), TopView()) == vcpu
    assert header(frame(split=True), TopView(userspace=True)) == [*vcpu[:7], "VMM%", "AVG", "P99"]
    wide = header(frame(split=True), TopView(userspace=True), 200)
    assert wide == [
        *("VM", "PID", "VCPU", "TID", "REASON", "CLASS", "COUNT", "RATE/s", "TIME%", "WAIT%", "SLEEP%", "VMM%", "AVG"),
        *("P50", "P99", "MAX", "1us..................16s"),
    ]
    assert header(frame(), TopView(userspace=True), 200) == [*wide[:9], *wide[12:]]


def test_the_parts_are_shares_of_the_time_of_the_vcpus() -> None:
    """Of 2 s, the vCPU was idle for 1 s: it waited for 0.34 s and slept for 0.54 s."""
    for view, expected in (
        (TopView(), ["HLT 3.50 50.0 17.0 27.0", "IRQ 2.50 0.1 0.0 0.0"]),
        (TopView(userspace=True), ["KVM_EXIT_IO 1.50 13.0 1.0 2.0 11.0"]),
    ):
        shown = frame(split=True)
        lines = screen.lines(shown, view, screen.chosen(shown, view, None), 24, 80)
        count = 5 if len(expected) == 2 else 6
        rows = [" ".join(line.split()[2 : 2 + count]) for line, _ in lines[4 : 4 + len(expected)]]
        assert sorted(rows) == expected
    assert lines[1][0].rstrip() == "1 vCPUs  6 exits/s  guest 0.0 %  lost 0.1 %  idle 50.0 %  wait 17.0 %"
