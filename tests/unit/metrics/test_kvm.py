"""Records become families. Names, labels and values are as promised, at each level, and series end with their vCPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.options import Level
from exporter.metrics.families import Family, PartFamily, PlainFamily
from exporter.metrics.kvm import Identified
from exporter.model.reason import Space
from exporter.model.records import Cell, ExitInProgress, TimeParts
from exporter.model.vm import Vcpu, Vm
from tests.support import exits
from tests.support.exits import NAME, NAMES, WEB, Labels, Name, Total, cell, families, metrics, of, record, snapshots

BY_VCPU = Level("vcpu", "vcpu")
BY_VM = Level("vm", "vm")

SERIES = ("kvm_exits_total", "kvm_exit_duration_seconds")
USERSPACE = ("kvm_userspace_exits_total", "kvm_userspace_exit_duration_seconds")
TIME = (
    *("kvm_vcpu_wait_seconds_total", "kvm_exit_wait_seconds_total", "kvm_exit_sleep_seconds_total"),
    *(f"kvm_userspace_exit_vmm{part}_seconds_total" for part in ("", "_wait", "_sleep")),
)


def values_of(made: list[Family]) -> dict[str, dict[Labels, object]]:
    """Return the values by family name and label values. Asserts that no label set comes twice."""
    found: dict[str, dict[Labels, object]] = {}
    for family in made:
        assert family.name not in found
        if isinstance(family, PlainFamily):
            pairs: list[tuple[Labels, object]] = list(family.samples)
        elif isinstance(family, PartFamily):
            pairs = [(series.labels, value) for series, value in family.values()]
        else:
            pairs = [(series.labels, total(series.total())) for series in family.series]
        found[family.name] = dict(pairs)
        assert len(found[family.name]) == len(pairs)
        assert all(len(labels) == len(family.labels) for labels, _ in pairs)
    return found


def total(one: Cell) -> Total:
    return Total(one.exits, one.sum_ns, one.counts())


def test_every_kvm_family_has_the_promised_labels_and_values() -> None:
    """Dashboards rely on the labels and values of every kvm_* family."""
    observed = cell(Space.ARM64_TRAP, 0x24, 7, {0: 2, 50: 3, 141: 1}, 5_000_000_500)
    observed = observed._replace(parts=TimeParts(1_250_000_000, 3_500_000_000, 0))
    out = cell(Space.USERSPACE, 6, 3, {50: 3}, 1_500, parts=TimeParts(101, 211, 1_409))
    interrupted = cell(Space.USERSPACE_ERRNO, 4, 2, {}, 0)
    progress = ExitInProgress(Space.ARM64_TRAP, 0x24, 2_500_000_000)
    guest_ns, wait_ns = 1_250_000_000, 1_750_000_000
    cells = (observed, out, interrupted)
    made = families(of(WEB, record(100, 102, *cells, guest_ns=guest_ns, wait_ns=wait_ns, in_progress=progress)))
    kinds = {family.name: (getattr(family, "kind", type(family).__name__), family.labels) for family in made}
    vcpu = ("pid", "tid", "vm", "vcpu")
    assert kinds == {
        "kvm_exits_total": ("CounterFamily", (*vcpu, "reason", "class")),
        "kvm_userspace_exits_total": ("CounterFamily", (*vcpu, "reason")),
        "kvm_vcpu_guest_seconds_total": ("counter", vcpu),
        "kvm_exit_duration_seconds": ("HistogramFamily", (*vcpu, "reason", "class")),
        "kvm_userspace_exit_duration_seconds": ("HistogramFamily", (*vcpu, "reason")),
        "kvm_vcpu_wait_seconds_total": ("counter", vcpu),
        "kvm_exit_wait_seconds_total": ("PartFamily", ("pid", "vm", "reason", "class")),
        "kvm_exit_sleep_seconds_total": ("PartFamily", ("pid", "vm", "reason", "class")),
        **dict.fromkeys(TIME[3:], ("PartFamily", ("pid", "vm", "reason"))),
        "kvm_vcpu_exit_in_progress_seconds": ("gauge", (*vcpu, "reason", "class")),
        "kvm_vm_info": ("gauge", ("pid", "vm", "uuid", "vmm")),
    }
    who = ("100", "102", "web-1", "1")
    exit_series = {(*who, "EC_DABT_LOW", "mmio"): total(observed)}
    userspace_series = {(*who, "KVM_EXIT_MMIO"): total(out), (*who, "restart"): total(interrupted)}
    assert values_of(made) == {
        "kvm_exits_total": exit_series,
        "kvm_userspace_exits_total": userspace_series,
        "kvm_vcpu_guest_seconds_total": {who: 1.25},
        "kvm_exit_duration_seconds": exit_series,
        "kvm_userspace_exit_duration_seconds": userspace_series,
        "kvm_vcpu_wait_seconds_total": {who: 1.75},
        "kvm_exit_wait_seconds_total": {("100", "web-1", "EC_DABT_LOW", "mmio"): 1.25},
        "kvm_exit_sleep_seconds_total": {("100", "web-1", "EC_DABT_LOW", "mmio"): 2.25},
        "kvm_userspace_exit_vmm_seconds_total": {("100", "web-1", "KVM_EXIT_MMIO"): 1.409e-06},
        "kvm_userspace_exit_vmm_wait_seconds_total": {("100", "web-1", "KVM_EXIT_MMIO"): 1.01e-07},
        "kvm_userspace_exit_vmm_sleep_seconds_total": {("100", "web-1", "KVM_EXIT_MMIO"): 1.1e-07},
        "kvm_vcpu_exit_in_progress_seconds": {(*who, "EC_DABT_LOW", "mmio"): 2.5},
        "kvm_vm_info": {("100", "web-1", "6f1c2a70", "qemu"): 1.0},
    }


@given(snapshots(), NAMES, st.sampled_from(["vcpu", "vm"]), st.sampled_from(["vcpu", "vm"]))
def test_each_family_has_sums_at_its_configured_level(
    vcpus: list[Identified], name: Name, one: str, other: str
) -> None:
    found = values_of(families(vcpus, Level(one, other), name))
    for counters, histograms, userspace in zip(SERIES[:1] + USERSPACE[:1], SERIES[1:] + USERSPACE[1:], (False, True)):
        assert found[counters] == exits.totals(vcpus, one, name, userspace=userspace)
        assert found[histograms] == exits.totals(vcpus, other, name, userspace=userspace)
    guest = exits.total_of("guest_ns", vcpus, one)
    assert found["kvm_vcpu_guest_seconds_total"] == {labels: ns / 1e9 for labels, ns in guest.items()}


def test_series_at_level_vm_have_no_vcpu_labels() -> None:
    made = families(of(WEB, record(100, 101)), BY_VM)
    assert {family.name: family.labels for family in made[:5]} == {
        "kvm_exits_total": ("pid", "vm", "reason", "class"),
        "kvm_userspace_exits_total": ("pid", "vm", "reason"),
        "kvm_vcpu_guest_seconds_total": ("pid", "vm"),
        "kvm_exit_duration_seconds": ("pid", "vm", "reason", "class"),
        "kvm_userspace_exit_duration_seconds": ("pid", "vm", "reason"),
    }


@pytest.mark.parametrize(
    ("level", "left"),
    [
        (Level("off", "vcpu"), [SERIES[1], USERSPACE[1]]),
        (Level("vm", "off"), [SERIES[0], USERSPACE[0], "kvm_vcpu_guest_seconds_total"]),
        (Level("off", "off"), []),
        (Level("off", "off", "off"), []),
    ],
)
def test_a_level_of_off_leaves_its_families_out(level: Level, left: list[str]) -> None:
    made = metrics(level)
    vcpus = of(WEB, record(100, 101, cell(Space.VMX, 12, 5, {10: 5}, 50), cell(Space.USERSPACE, 6, 1, {}, 0)))
    made.update(vcpus, [])
    assert [family.name for family in made.families(vcpus)] == [
        *left,
        *([] if level.time == "off" else TIME),
        "kvm_vcpu_exit_in_progress_seconds",
        "kvm_vm_info",
    ]
    made.update([], [each.key for each, _ in vcpus])


def test_two_threads_with_one_tid_share_a_series() -> None:
    """The process has used the tid again. If the counter fell, Prometheus would take this for a restart."""
    old = record(100, 101, cell(Space.VMX, 12, 5, {10: 5}, 50), born_ns=1, guest_ns=7, alive=False)
    new = record(100, 101, cell(Space.VMX, 12, 3, {10: 1, 11: 2}, 40), born_ns=2, guest_ns=11)
    made = metrics()
    vcpus = of(WEB, old, new)
    labels = ("100", "101", "web-1", "0")
    sums = Total(8, 90, tuple({10: 6, 11: 2}.get(number, 0) for number in range(exits.BUCKETS)))
    made.update(vcpus, [])
    found = values_of(made.families(vcpus))
    assert found["kvm_exits_total"] == found["kvm_exit_duration_seconds"] == {(*labels, "HLT", "idle"): sums}
    assert found["kvm_vcpu_guest_seconds_total"] == {labels: 18e-9}
    assert len(found["kvm_vm_info"]) == 1

    vcpus = of(WEB, new)
    made.update(vcpus, [old.key])
    found = values_of(made.families(vcpus))
    assert found["kvm_exits_total"] == found["kvm_exit_duration_seconds"] == {(*labels, "HLT", "idle"): sums}
    assert found["kvm_vcpu_guest_seconds_total"] == {labels: 18e-9}

    made.update([], [new.key])
    assert not any(values_of(made.families([])).values())


def test_counters_of_a_vm_keep_ended_vcpus_until_the_last_vcpu_ends() -> None:
    one = record(100, 101, cell(Space.VMX, 12, 5, {10: 5}, 50), cell(Space.VMX, 10, 1, {}, 0), guest_ns=7)
    two = record(100, 102, cell(Space.VMX, 12, 3, {11: 3}, 40), guest_ns=11)
    made = metrics(BY_VM)
    made.update(of(WEB, one, two), [])
    halts, cpuids = ("100", "web-1", "HLT", "idle"), ("100", "web-1", "CPUID", NAME(Space.VMX, 10).klass)
    assert values_of(made.families([]))["kvm_exits_total"] == {
        halts: total(cell(Space.VMX, 12, 8, {10: 5, 11: 3}, 90)),
        cpuids: total(cell(Space.VMX, 10, 1, {}, 0)),
    }
    more = record(100, 102, cell(Space.VMX, 12, 4, {11: 4}, 45), guest_ns=20)
    made.update(of(WEB, more), [one.key])
    found = values_of(made.families([]))
    counts = tuple({10: 5, 11: 4}.get(number, 0) for number in range(exits.BUCKETS))
    # The reason that only the first vCPU had ends with this vCPU. The sum of the other reason stays.
    assert found["kvm_exits_total"] == found["kvm_exit_duration_seconds"] == {halts: Total(9, 95, counts)}
    assert found["kvm_vcpu_guest_seconds_total"] == {("100", "web-1"): 27e-9}
    made.update([], [two.key])
    assert not any(values_of(made.families([])).values())


def test_exits_in_progress_and_vm_info_are_those_of_the_snapshot() -> None:
    """A vCPU is not in the snapshot if it has ended, or if its VM is not known yet.

    Then it has no series in these families.
    """
    made = metrics(BY_VM)
    busy = record(100, 101, in_progress=ExitInProgress(Space.VMX, 48, 1_500_000_000))
    idle = record(100, 102)
    other = Vm(pid=200, name="200", uuid="", vmm="unknown")
    vcpus = [*of(WEB, busy, idle), (record(200, 201), Vcpu(other, ""))]
    made.update(vcpus, [])
    found = values_of(made.families(vcpus))
    assert found["kvm_vcpu_exit_in_progress_seconds"] == {
        ("100", "101", "web-1", "0", "EPT_VIOLATION", "fault"): 1.5,
    }
    assert set(found["kvm_vm_info"]) == {("100", "web-1", "6f1c2a70", "qemu"), ("200", "200", "", "unknown")}
    found = values_of(made.families(of(WEB, idle)))
    assert found["kvm_vcpu_exit_in_progress_seconds"] == {}
    assert set(found["kvm_vm_info"]) == {("100", "web-1", "6f1c2a70", "qemu")}


def test_a_denied_reason_in_progress_is_shown_as_other() -> None:
    made = metrics(deny=["EPT_VIOLATION"])
    vcpus = of(WEB, record(100, 101, in_progress=ExitInProgress(Space.VMX, 48, 10**9)))
    made.update(vcpus, [])
    assert values_of(made.families(vcpus))["kvm_vcpu_exit_in_progress_seconds"] == {
        ("100", "101", "web-1", "0", "other", "fault"): 1.0,
    }


@given(snapshots(), st.sampled_from([BY_VCPU, BY_VM]))
def test_every_series_ends_with_its_threads(vcpus: list[Identified], level: Level) -> None:
    made = metrics(level)
    made.update(vcpus, [])
    made.update([], [each.key for each, _ in vcpus])
    assert not any(values_of(made.families([])).values())
    made.update([], [each.key for each, _ in vcpus])  # an unknown thread is no error


@given(snapshots(), st.data())
def test_vcpus_may_be_passed_late_and_twice(vcpus: list[Identified], data: st.DataObject) -> None:
    """update() gets a vCPU only after its VM is known. If it gets the same snapshot twice, nothing changes."""
    made = metrics(BY_VM)
    known = data.draw(st.sets(st.integers(0, len(vcpus) - 1)))
    made.update([vcpus[number] for number in sorted(known)], [])
    made.update(vcpus, [])
    made.update(vcpus, [])
    assert values_of(made.families(vcpus)) == values_of(families(vcpus, BY_VM))


def test_seen_returns_the_cells_of_the_last_update() -> None:
    before = record(100, 101, cell(Space.VMX, 12, 5, {10: 5}, 50), cell(Space.USERSPACE, 6, 2, {}, 0))
    last = record(100, 101, cell(Space.VMX, 12, 11, {10: 11}, 110), cell(Space.USERSPACE, 6, 5, {}, 0))
    made = metrics()
    assert made.seen(last.key) == ()
    made.update(of(WEB, before), [])
    assert made.seen(last.key) is before.cells
    made.update(of(WEB, last), [])
    assert made.seen(last.key) is last.cells
