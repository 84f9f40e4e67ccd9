"""Where the lost time went: waiting for a CPU, asleep, in the kernel, in the VMM. And idle time: polling or asleep."""

from __future__ import annotations

import re

from exporter.model.records import TimeParts
from exporter.page.drawing import bar
from exporter.page.markup import BUDGET, fragment
from exporter.page.page import HtmlPage, PageData
from exporter.page.totals import History
from exporter.page.view import TimeSplit
from exporter.readings.reading import USERSPACE, InProgress, VcpuReading
from tests.support.readings import SECOND, counted, reading, thread
from tests.unit.page.views import UP, seen, vcpu

MS = 10**6


def split_vcpu(times: int = 1, *, vm: str = "web", pid: int = 1, held: bool = False) -> VcpuReading:
    """Return a vCPU with three reasons of exits. The VMM handled its MMIO exits."""
    irq = counted("IRQ", "interrupt", 2, {64: 2}, times * 97 * MS, parts=TimeParts(times * 83 * MS, times * 83 * MS))
    mmio = counted("MMIO", "mmio", 3, {64: 3}, times * 61 * MS, parts=TimeParts(times * 5 * MS, times * 16 * MS))
    idle = counted("WFx", "idle", 5, {80: 5}, times * 541 * MS, parts=TimeParts(times * 3 * MS, times * 512 * MS))
    to_vmm = TimeParts(times * 2 * MS, times * 9 * MS, times * 46 * MS)
    vmm = counted("KVM_EXIT_MMIO", "mmio", 3, {64: 3}, times * 61 * MS, kind=USERSPACE, parts=to_vmm)
    halted = counted("KVM_EXIT_HLT", "idle", 1, {64: 1}, times * 7 * MS, kind=USERSPACE, parts=TimeParts(0, 0, MS))
    in_progress = InProgress("MMIO", "mmio", 2 * SECOND) if held else None
    signal = counted("restart", "interrupt", 1, {64: 1}, times * 13 * MS, kind=USERSPACE, parts=TimeParts(0, 0, 3 * MS))
    return thread(pid, pid + 1, irq, mmio, idle, vmm, halted, signal, vm=vm, in_progress=in_progress)


def in_ms(split: TimeSplit | None, seconds: float) -> list[float]:
    assert split
    return [round(part * seconds * 1000, 6) for part in split]


def test_the_lost_time_of_a_vm_is_split_without_a_rest() -> None:
    """97 + 61 ms = 83 + 5 waiting, 11 asleep, 37 in the VMM, 22 in the kernel. Idle: 3 waiting, 509 asleep, 29 polling.

    In the VMM: 46 ms, of which 2 ms were waiting and 7 ms sleep. The returns because the guest
    halted, and because of a signal, are no work of the VMM.
    """
    (vm,) = seen(History(), 10, split_vcpu()).vms
    assert in_ms(vm.split, 10) == [88, 11, 22, 37, 3, 509, 29]
    assert round(vm.lost * 10_000, 6) == 97 + 61 == 88 + 11 + 22 + 37


def test_later_views_split_the_time_since_an_earlier_view() -> None:
    history = History()
    seen(history, 10, split_vcpu(2))
    (vm,) = seen(history, 14, split_vcpu(5)).vms
    assert in_ms(vm.split, 4) == [3 * ms for ms in (88, 11, 22, 37, 3, 509, 29)]
    (row, _, _) = vm.rows
    assert row.parts == TimeParts(3 * 83 * MS, 3 * 83 * MS)


def test_the_exit_in_progress_is_no_part_of_the_split() -> None:
    (vm,) = seen(History(), 10, split_vcpu(held=True)).vms
    assert in_ms(vm.split, 10) == [88, 11, 22, 37, 3, 509, 29]
    assert round(vm.lost * 10_000, 6) == 97 + 61 + 2000


def test_an_unknown_part_of_one_vcpu_leaves_the_vm_without_a_split() -> None:
    shown = seen(History(), 10, split_vcpu(), vcpu(3, 7))
    assert [vm.split for vm in shown.vms] == [None]
    assert shown.waiting is None
    made = fragment(shown)
    assert "Waiting" not in made
    assert "class=split" not in made
    assert "class=where" not in made


def test_the_waiting_of_the_host_is_the_sum_of_its_vms() -> None:
    shown = seen(History(), 10, split_vcpu(), split_vcpu(2, vm="db", pid=7))
    assert shown.waiting is not None
    assert round(shown.waiting * 10_000, 6) == 3 * (88 + 3)
    assert "<div><dt>Waiting for a CPU</dt><dd>0.027 <small>vCPUs</small></dd></div>" in fragment(shown)


def test_the_line_below_a_vm_and_its_rows_have_this_html() -> None:
    made = fragment(seen(History(), 1, split_vcpu()))
    assert (
        "<p class=where><i class=w>Waiting for a CPU</i> <b>0.088</b> <i class=s>asleep</i> <b>0.011</b> "
        "<i class=k>kernel</i> <b>0.022</b> <i class=v>VMM</i> <b>0.037</b>"
        " · idle: asleep <b>0.51</b>, polling <b>0.029</b>, waiting <b>0.003</b></p>"
    ) in made
    assert "<th scope=col>Exits/s<th scope=col>Waiting<th scope=col>Asleep<th scope=col>p50" in made
    assert "<th scope=row>IRQ <i>interrupt</i><td>0.097<td>2<td>0.083<td>0<td>7.81" in made
    assert "<th scope=row>MMIO <i>mmio</i><td>0.061<td>3<td>0.005<td>0.011<td>7.81" in made
    assert '<div id="vms" class=split>' in made


def test_the_bar_has_a_colour_for_each_part() -> None:
    """The bar is 200 units wide. The last part is the exit in progress."""
    drawn = bar(0.5, [("w", 0.115), ("s", 0.0), ("k", 0.065), ("v", 0.205)])
    assert re.findall(r'<path( class=\w)? d="(.*?)"/>', drawn) == [
        (" class=w", "M0 .5h23"),
        (" class=k", "M23 .5h13"),
        (" class=v", "M36 .5h41"),
        (" class=r", "M77 .5h23"),
    ]
    assert re.findall(r"<path(.*?)/>", bar(0.5)) == [' d="M0 .5h100"']
    assert re.findall(r"<path(.*?)/>", bar(0.0, [("w", 0.0)])) == [' class=r d="M0 .5h0"']


def test_a_full_page_with_the_split_stays_under_50_kilobytes() -> None:
    spread = {number: 1 + number % 7 for number in range(40, 80)}
    parts = TimeParts(10**8, 3 * 10**8)
    reasons = [
        counted(f"EC_DABT_{code}", "mmio", 10**6 + code, spread, 10**9, parts=parts, kind=kind)
        for code in range(8)
        for kind in ("exit", USERSPACE)
    ]
    vms = [thread(pid, pid, *reasons, vm=f"compute-{pid:04}") for pid in range(1, 31)]
    now = reading(100, *vms)
    made = HtmlPage(lambda: PageData(now, UP), lambda: 1.0, kernel="6.1.0", telemetry_path="/metrics").page()
    shown = [block.count(b"<tr><th scope=row") for block in made.split(b"<details")[1:]]
    assert shown[:3] == [8, 8, 8]
    assert (len(shown), min(shown)) == (20, 1)
    assert len(made) < 50_000
    assert sum(map(len, re.findall(rb"<details.*?</details>", made))) < BUDGET
