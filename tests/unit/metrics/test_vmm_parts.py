"""The parts of the time in the VMM: where it waited and slept. Their names, labels and values."""

from __future__ import annotations

import pytest

from exporter.config.options import Level
from exporter.metrics.families import Family, PartFamily
from exporter.model.reason import Space
from exporter.model.records import TimeParts
from exporter.model.vm import Vm
from tests.support.exits import cell, families, of, record

VM = Vm(pid=100, name="web-1", uuid="", vmm="qemu")
MMIO, IO, HLT = 6, 2, 12
NS = 10**9
VMM = "kvm_userspace_exit_vmm"

RECORDS = [
    record(
        100,
        101,
        cell(Space.VMX, HLT, 5, {60: 5}, 211 * NS)._replace(parts=TimeParts(2 * NS, 5 * NS)),
        cell(Space.USERSPACE, MMIO, 3, {60: 3}, 101 * NS)._replace(parts=TimeParts(7 * NS, 18 * NS, 47 * NS)),
        cell(Space.USERSPACE, IO, 3, {60: 3}, 97 * NS)._replace(parts=TimeParts(0, 0, 23 * NS)),
    ),
    record(
        100,
        102,
        cell(Space.USERSPACE, MMIO, 3, {60: 3}, 53 * NS)._replace(parts=TimeParts(13 * NS, 32 * NS, 41 * NS)),
    ),
]


def values(made: list[Family], name: str) -> dict[tuple[str, ...], float]:
    (family,) = (each for each in made if each.name == name)
    assert isinstance(family, PartFamily)
    return {series.labels: value for series, value in family.values()}


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (
            "vm",
            {
                "seconds": {("100", "web-1", "KVM_EXIT_MMIO"): 88.0, ("100", "web-1", "KVM_EXIT_IO"): 23.0},
                "wait_seconds": {("100", "web-1", "KVM_EXIT_MMIO"): 20.0},
                "sleep_seconds": {("100", "web-1", "KVM_EXIT_MMIO"): 30.0},
            },
        ),
        (
            "vcpu",
            {
                "seconds": {
                    ("100", "101", "web-1", "0", "KVM_EXIT_MMIO"): 47.0,
                    ("100", "101", "web-1", "0", "KVM_EXIT_IO"): 23.0,
                    ("100", "102", "web-1", "1", "KVM_EXIT_MMIO"): 41.0,
                },
                "wait_seconds": {
                    ("100", "101", "web-1", "0", "KVM_EXIT_MMIO"): 7.0,
                    ("100", "102", "web-1", "1", "KVM_EXIT_MMIO"): 13.0,
                },
                "sleep_seconds": {
                    ("100", "101", "web-1", "0", "KVM_EXIT_MMIO"): 11.0,
                    ("100", "102", "web-1", "1", "KVM_EXIT_MMIO"): 19.0,
                },
            },
        ),
    ],
)
def test_the_time_in_the_vmm_and_its_parts_have_series_of_their_own(
    level: str, expected: dict[str, dict[tuple[str, ...], float]]
) -> None:
    """The parts of an exit from the guest are in none of them."""
    made = families(of(VM, *RECORDS), Level(time=level))
    for name, series in expected.items():
        assert values(made, f"{VMM}_{name}_total") == series
    owner = ("pid", "vm") if level == "vm" else ("pid", "tid", "vm", "vcpu")
    assert {each.labels for each in made if each.name.startswith(VMM)} == {(*owner, "reason")}


def test_without_the_level_the_vmm_has_no_series() -> None:
    made = families(of(VM, *RECORDS), Level(time="off"))
    assert [each.name for each in made if each.name.startswith(VMM)] == []
