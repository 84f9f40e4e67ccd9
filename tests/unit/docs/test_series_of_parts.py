"""The formula in docs/metrics.md gives the number of series that the parts of the time add to a page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.config.options import Level
from exporter.metrics.kvm import Identified
from exporter.model.reason import Reason, Space
from exporter.model.records import NO_PARTS, TimeParts, VcpuTotals
from exporter.model.vm import Vcpu, Vm
from tests.support import pages
from tests.support.exits import cell, families, record
from tests.support.pages import TEXT
from tests.support.paths import ROOT

VCPUS_OF_A_VM, REASONS, OF_THE_VMM = 4, 4, 2
ALL_PARTS = TimeParts(3, 8, 17)


def name(space: int, code: int) -> Reason:
    return Reason(f"{'OUT' if space == Space.USERSPACE else 'EXIT'}_{code}", "mmio")


def host(vms: int) -> list[Identified]:
    """Return the vCPUs of a host. Each has four reasons and two returns to the VMM with parts, and one without."""
    cells = [cell(Space.VMX, code, 1, {60: 1}, 19)._replace(parts=ALL_PARTS) for code in range(REASONS)]
    cells += [cell(Space.USERSPACE, code, 1, {60: 1}, 19)._replace(parts=ALL_PARTS) for code in range(OF_THE_VMM)]
    cells.append(cell(Space.VMX, 99, 1, {60: 1}, 19)._replace(parts=NO_PARTS))
    made: list[Identified] = []
    for pid in range(1000, 1000 + 10 * vms, 10):
        for index in range(VCPUS_OF_A_VM):
            each = replace(record(pid, pid + 1 + index, *cells), totals=VcpuTotals(1, REASONS * 3))
            made.append((each, Vcpu(Vm(pid, f"vm-{pid}", "", "qemu"), str(index))))
    return made


def rendered(vcpus: list[Identified], level: str) -> int:
    body = pages.page(families(vcpus, Level(time=level), name), TEXT).body
    return sum(not line.startswith(b"#") for line in body.splitlines())


@pytest.mark.parametrize("level", ["vm", "vcpu"])
def test_the_parts_add_as_many_series_as_the_formula_says(level: str) -> None:
    made = host(7)
    per = {"vm": 7, "vcpu": 7 * VCPUS_OF_A_VM}[level]
    added = rendered(made, level) - rendered(made, "off")
    assert added == 7 * VCPUS_OF_A_VM + per * (2 * REASONS + 3 * OF_THE_VMM)


def test_the_example_in_the_page_is_computed_with_the_formula() -> None:
    vcpus, vms = 1000, 250
    total = vcpus + vms * (2 * REASONS + 3 * OF_THE_VMM)
    text = " ".join((ROOT / "docs/metrics.md").read_text().split())
    assert "C (R + U + 1) + H (R + U) h + P + M + W + T (2 R' + 3 U')" in text
    assert f"1,000 vCPUs in 250 VMs add 1,000 + 250 x ({2 * REASONS} + {3 * OF_THE_VMM}) = {total:,} series" in text
