"""Readings of vCPUs with interrupts and idle waits, and the page's view of them."""

from __future__ import annotations

from exporter.page.totals import History
from exporter.page.view import Health, PageView, view
from exporter.readings.reading import VcpuReading
from tests.support.readings import counted, reading, thread

UP = Health(True, 0, 0)


def vcpu(tid: int, irq: int, wfx: int = 0, *, pid: int = 1, vm: str | None = "web", **more: object) -> VcpuReading:
    """Return a vCPU with `irq` interrupts of 8 ms each (bucket 64), and `wfx` waits of 250 ms each (bucket 84)."""
    interrupts = counted("IRQ", "interrupt", irq, {64: irq}, irq * 8_000_000)
    waits = counted("WFx", "idle", wfx, {84: wfx}, wfx * 250_000_000)
    return thread(pid, tid, *([interrupts, waits] if wfx else [interrupts]), vm=vm, **more)  # type: ignore[arg-type]


def seen(history: History, at: float, *vcpus: VcpuReading, since_ns: int = 0) -> PageView:
    now = reading(at, *vcpus, since_ns=since_ns)
    return view(now, history.add(now, at), UP)


def figures(shown: PageView) -> list[tuple[str, float, list[tuple[str, int, float]]]]:
    return [(vm.name, round(vm.lost, 6), [(row.reason, row.exits, row.rate) for row in vm.rows]) for vm in shown.vms]
