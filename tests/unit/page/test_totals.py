"""The page's history: which earlier totals are compared, and how long they are kept."""

from __future__ import annotations

from exporter.page.totals import History
from tests.support.readings import SECOND
from tests.unit.page.views import figures, seen, vcpu


def test_the_first_request_shows_all_counts_and_the_next_request_the_difference() -> None:
    history = History()
    first = seen(history, 10, vcpu(2, 101, 3), vcpu(3, 7))
    assert (first.whole, first.elapsed_ns) == (True, 10 * SECOND)
    assert figures(first) == [("web", 0.0864, [("IRQ", 108, 10.8), ("WFx", 3, 0.3)])]
    second = seen(history, 12, vcpu(2, 114, 3), vcpu(3, 24), vcpu(4, 5, pid=9, vm="db"))
    assert (second.whole, second.elapsed_ns) == (False, 2 * SECOND)
    assert figures(second) == [("web", 0.12, [("IRQ", 30, 15.0)]), ("db", 0.02, [("IRQ", 5, 2.5)])]


def test_rates_cover_about_four_seconds_or_more() -> None:
    history = History()
    spans = [seen(history, at, vcpu(2, at * 10)).elapsed_ns // SECOND for at in (1, 3, 5, 7, 9, 14, 15, 16, 17, 18, 19)]
    assert spans == [1, 2, 4, 4, 4, 5, 6, 7, 8, 4, 5]
    assert len(history) <= 4


def test_totals_are_dropped_a_minute_after_the_last_request() -> None:
    history = History()
    seen(history, 1, vcpu(2, 1))
    history.forget(60.9)
    assert len(history) == 1
    history.forget(61)
    assert len(history) == 0
    assert seen(history, 62, vcpu(2, 1)).whole
    assert seen(history, 122, vcpu(2, 1)).whole
    assert not seen(history, 181, vcpu(2, 1)).whole


def test_without_comparable_totals_the_page_shows_all_counts() -> None:
    """There are two cases: the earlier totals lack a vCPU, or counting has started again from 0."""
    history = History()
    seen(history, 10, vcpu(2, 100), vcpu(3, 50))
    missing = seen(history, 12, vcpu(2, 103))
    assert missing.whole
    assert figures(missing)[0][2] == [("IRQ", 103, 103 / 12)]
    assert figures(seen(history, 14, vcpu(2, 114)))[0][2] == [("IRQ", 11, 5.5)]
    assert seen(history, 16, vcpu(2, 3), since_ns=1).whole


def test_the_last_exits_of_an_ended_vcpu_are_counted_once() -> None:
    history = History()
    seen(history, 10, vcpu(2, 100), vcpu(3, 50))
    ended = vcpu(3, 57, alive=False)
    assert figures(seen(history, 14, vcpu(2, 103), ended)) == [("web", 0.02, [("IRQ", 10, 2.5)])]
    assert figures(seen(history, 18, vcpu(2, 108), ended)) == [("web", 0.01, [("IRQ", 5, 1.25)])]
    assert figures(seen(history, 22, vcpu(2, 121))) == [("web", 0.026, [("IRQ", 13, 3.25)])]  # linger is over


def test_a_vm_that_gets_its_name_later_keeps_its_history() -> None:
    """The VM is shown once, even while one of its vCPUs has no name yet."""
    history = History()
    assert figures(seen(history, 10, vcpu(2, 100, vm=None)))[0][0] == "1"
    named = seen(history, 12, vcpu(2, 103), vcpu(3, 1, vm=None))
    assert figures(named) == [("web", 0.016, [("IRQ", 4, 2.0)])]
