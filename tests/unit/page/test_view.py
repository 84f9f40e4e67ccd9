"""The VMs and reasons on the page, and their order."""

from __future__ import annotations

import re

from exporter.page.markup import fragment
from exporter.page.totals import History
from exporter.page.view import Stuck
from exporter.readings.reading import InProgress
from tests.support.readings import SECOND, counted, thread
from tests.unit.page.views import seen, vcpu


def test_an_exit_in_progress_counts_as_lost_time_and_is_listed_after_a_second() -> None:
    history = History()
    irq = counted("IRQ", "interrupt", 1)
    held = thread(1, 2, irq, vcpu="3", in_progress=InProgress("IRQ", "interrupt", SECOND))
    assert seen(history, 10, held).stuck == []
    later = held._replace(in_progress=InProgress("IRQ", "interrupt", 3 * SECOND))
    idle = vcpu(5, 0, 1, vcpu="4", in_progress=InProgress("WFx", "idle", 9 * SECOND))
    shown = seen(history, 12, idle, later)
    assert shown.stuck == [Stuck("web-1", "3", 2, "IRQ", 3 * SECOND)]
    assert [vm.lost for vm in shown.vms] == [1.0]
    made = fragment(shown)
    assert '<th scope="row"><bdi>web-1</bdi></th><td>3</td><td>IRQ</td><td>3.00\u00a0s</td>' in made
    assert "In an exit for more than 1\u00a0s, and not idle" in made


def test_vms_are_sorted_by_lost_time_and_idle_reasons_come_last() -> None:
    history = History()
    shown = seen(
        history,
        10,
        vcpu(2, 1, 1000, pid=1, vm="sleeps"),
        vcpu(3, 101, pid=2, vm="busy"),
        vcpu(4, 0, pid=3, vm="quiet"),
        vcpu(5, 53, 5, pid=4, vm="half"),
    )
    assert [vm.name for vm in shown.vms] == ["busy", "half", "sleeps", "quiet"]
    assert [row.reason for row in shown.vms[1].rows] == ["IRQ", "WFx"]
    made = fragment(shown)
    assert made.index("busy") < made.index("half") < made.index("sleeps") < made.index("quiet")
    assert "<tr class=idle><th scope=row>WFx <i>idle</i>" in made
    assert [bool(opened) for opened in re.findall(r"<details id=vm-\d+( open)?>", made)] == [True, True, True, False]


def test_an_idle_thread_of_a_program_whose_vcpus_move_is_not_stuck() -> None:
    out = thread(1, 2, counted("EC_DABT_LOW", "mmio", 1), in_progress=InProgress("EC_DABT_LOW", "mmio", 3 * SECOND))
    assert len(seen(History(), 10, out).stuck) == 1
    assert seen(History(), 10, out._replace(vmm="gvisor")).stuck == []
