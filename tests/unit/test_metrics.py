"""Records to families to text: labels, values, hostile names."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.exposition import text
from exporter.families import BUCKETS, Family, Histogram
from exporter.metrics import vcpu_families
from exporter.reasons import Reasons, Space
from exporter.records import Cell, ExitInProgress, ThreadKey, VcpuRecord
from exporter.vms import Vcpu, Vm

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def cell(space: int, code: int, exits: int, observed: dict[int, int], sum_ns: int) -> Cell:
    counts = [observed.get(number, 0) for number in range(BUCKETS)]
    return Cell(space, code, exits, sum_ns, struct.pack(f"={BUCKETS}Q", *counts))


def record(pid: int, tid: int, *cells: Cell, born_ns: int = 1, **options: object) -> VcpuRecord:
    defaults = {"comm": b"", "vcpu_id": None, "guest_ns": 0, "in_progress": None, "alive": True}
    return VcpuRecord(key=ThreadKey(pid, tid, born_ns), cells=cells, **{**defaults, **options})  # type: ignore[arg-type]


WEB = Vm(pid=100, name="web-1", uuid="6f1c2a70", vmm="qemu")


def families(*records: VcpuRecord, vm: Vm = WEB) -> dict[str, Family]:
    made = vcpu_families(records, lambda each: Vcpu(vm, str(each.key.tid - 101)), Reasons().lookup)
    return {family.name: family for family in made}


def test_the_contract() -> None:
    """Every kvm_* family with the labels and values that dashboards count on."""
    observed = cell(Space.ARM64_TRAP, 0x24, 7, {0: 2, 50: 3, 141: 1}, 5_000_000_500)
    out = cell(Space.USERSPACE, 6, 3, {50: 3}, 1_500)
    interrupted = cell(Space.USERSPACE_ERRNO, 4, 2, {}, 0)
    progress = ExitInProgress(Space.ARM64_TRAP, 0x24, 2_500_000_000)
    made = families(record(100, 102, observed, out, interrupted, guest_ns=1_250_000_000, in_progress=progress))
    vcpu = ("100", "102", "web-1", "1")
    counts = tuple({0: 2, 50: 3, 141: 1}.get(number, 0) for number in range(BUCKETS))
    assert {name: (family.kind, family.labels, list(family.samples)) for name, family in made.items()} == {
        "kvm_exits_total": (
            "counter",
            ("pid", "tid", "vm", "vcpu", "reason", "class"),
            [((*vcpu, "EC_DABT_LOW", "mmio"), 7)],
        ),
        "kvm_exit_duration_seconds": (
            "histogram",
            ("pid", "tid", "vm", "vcpu", "reason", "class"),
            [((*vcpu, "EC_DABT_LOW", "mmio"), Histogram(counts, 5.0000005))],
        ),
        "kvm_userspace_exits_total": (
            "counter",
            ("pid", "tid", "vm", "vcpu", "reason"),
            [((*vcpu, "KVM_EXIT_MMIO"), 3), ((*vcpu, "restart"), 2)],
        ),
        "kvm_userspace_exit_duration_seconds": (
            "histogram",
            ("pid", "tid", "vm", "vcpu", "reason"),
            [
                ((*vcpu, "KVM_EXIT_MMIO"), Histogram(out.counts(), 1.5e-6)),
                ((*vcpu, "restart"), Histogram((0,) * BUCKETS, 0.0)),
            ],
        ),
        "kvm_vcpu_guest_seconds_total": ("counter", ("pid", "tid", "vm", "vcpu"), [(vcpu, 1.25)]),
        "kvm_vcpu_exit_in_progress_seconds": (
            "gauge",
            ("pid", "tid", "vm", "vcpu", "reason", "class"),
            [((*vcpu, "EC_DABT_LOW", "mmio"), 2.5)],
        ),
        "kvm_vm_info": ("gauge", ("pid", "vm", "uuid", "vmm"), [(("100", "web-1", "6f1c2a70", "qemu"), 1)]),
    }


def test_one_series_for_two_threads_with_one_tid() -> None:
    made = families(
        record(100, 101, cell(Space.VMX, 12, 5, {10: 5}, 50), born_ns=1, guest_ns=7, alive=False),
        record(100, 101, cell(Space.VMX, 12, 3, {10: 1, 11: 2}, 40), born_ns=2, guest_ns=11),
    )
    labels = ("100", "101", "web-1", "0")
    assert list(made["kvm_exits_total"].samples) == [((*labels, "HLT", "idle"), 8)]
    ((_, histogram),) = made["kvm_exit_duration_seconds"].samples
    assert isinstance(histogram, Histogram)
    assert {number: count for number, count in enumerate(histogram.counts) if count} == {10: 6, 11: 2}
    assert histogram.sum_seconds == 90e-9
    assert list(made["kvm_vcpu_guest_seconds_total"].samples) == [(labels, 18e-9)]
    assert len(made["kvm_vm_info"].samples) == 1


def page(made: dict[str, Family], accept: str = "") -> str:
    return text.render(made.values(), CollectorRegistry(), accept)[1].decode()


def test_classic_buckets_are_sums_of_the_kernels() -> None:
    """Every second octave from 2^-20 s to 16 s; a count at a bound belongs below it."""
    at_bounds = {4 * octave + 92: 10 + octave for octave in range(-9, 13)}
    made = families(record(100, 101, cell(Space.VMX, 12, 10**6, {0: 1, **at_bounds, 141: 5}, 10**9)))
    buckets = {}
    for family in parse_text(page(made)):
        for sample in family.samples:
            if sample.name == "kvm_exit_duration_seconds_bucket":
                buckets[float(sample.labels["le"])] = sample.value
            if sample.name == "kvm_exit_duration_seconds_count":
                assert sample.value == 1 + sum(at_bounds.values()) + 5
    bounds = [2.0**octave for octave in range(-20, 5, 2)]
    assert list(buckets) == [*bounds, float("inf")]
    for bound in bounds:
        below = [count for number, count in at_bounds.items() if 2.0 ** ((number - 92) / 4) <= bound]
        assert (bound, buckets[bound]) == (bound, 1 + sum(below))


def test_content_type_by_accept() -> None:
    made = families(record(100, 101, cell(Space.VMX, 12, 5, {10: 5}, 50)))
    plain = text.render(made.values(), CollectorRegistry(), "text/plain")
    opened = text.render(made.values(), CollectorRegistry(), OPENMETRICS)
    assert plain[0].startswith("text/plain; version=0.0.4")
    assert opened[0].startswith("application/openmetrics-text")
    assert opened[1].endswith(b"# EOF\n")
    assert {family.name for family in parse_openmetrics(opened[1].decode())} >= {"kvm_exits", "kvm_vm_info"}


# Surrogates cannot be encoded; identify() never yields one, since it decodes with errors="replace".
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)


@given(_NAMES, _NAMES)
def test_hostile_names_survive_the_text_format(name: str, uuid: str) -> None:
    vm = Vm(pid=100, name=name, uuid=uuid, vmm="qemu")
    made = families(record(100, 101, cell(Space.VMX, 12, 5, {10: 5}, 50)), vm=vm)
    lines = page(made).split("\n")
    assert len([line for line in lines if line and not line.startswith("#")]) == 1 + 16 + 1 + 1
    (info,) = (line for line in lines if line.startswith("kvm_vm_info{"))
    for value in (name, uuid):
        escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        assert f'="{escaped}"' in info
