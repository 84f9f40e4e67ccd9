"""Records to metric families: the kvm_* part of the contract.

The exporter's own metrics are in selfmetrics.py. Names and labels are API: dashboards and alerts hang on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import add
from typing import NamedTuple

from exporter.families import Family, Histogram
from exporter.reasons import Reason, Space
from exporter.records import Cell, VcpuRecord
from exporter.vms import Vcpu, Vm

_VCPU = ("pid", "tid", "vm", "vcpu")
_USERSPACE = (Space.USERSPACE, Space.USERSPACE_ERRNO)

Labels = tuple[str, ...]
Identify = Callable[[VcpuRecord], Vcpu]
NameReason = Callable[[int, int], Reason]


class _Total(NamedTuple):
    """Exits and intervals of one label set; two threads can share one when a VM's process reuses a tid."""

    exits: int
    sum_ns: int
    counts: tuple[int, ...]

    def plus(self, cell: Cell) -> _Total:
        return _Total(
            self.exits + cell.exits,
            self.sum_ns + cell.sum_ns,
            tuple(map(add, self.counts, cell.counts())),
        )


def vcpu_families(vcpus: Iterable[VcpuRecord], identify: Identify, name: NameReason) -> list[Family]:
    """Build the kvm_* families of the records whose VM is known by `identify`."""
    exits: dict[Labels, _Total] = {}
    userspace: dict[Labels, _Total] = {}
    guest_ns: dict[Labels, int] = {}
    progress: dict[Labels, float] = {}
    vms: dict[Vm, None] = {}
    for record in vcpus:
        vcpu = identify(record)
        labels = (str(record.key.pid), str(record.key.tid), vcpu.vm.name, vcpu.index)
        vms[vcpu.vm] = None
        guest_ns[labels] = guest_ns.get(labels, 0) + record.guest_ns
        for cell in record.cells:
            reason = name(cell.space, cell.code)
            if cell.space in _USERSPACE:
                _accumulate(userspace, (*labels, reason.name), cell)
            else:
                _accumulate(exits, (*labels, *reason), cell)
        if record.in_progress:
            reason = name(record.in_progress.space, record.in_progress.code)
            progress[(*labels, *reason)] = record.in_progress.age_ns / 1e9
    return [
        Family(
            "kvm_exits_total",
            "counter",
            "Exits from guest mode.",
            (*_VCPU, "reason", "class"),
            [(labels, total.exits) for labels, total in exits.items()],
        ),
        Family(
            "kvm_exit_duration_seconds",
            "histogram",
            "Time from an exit to the next entry into the guest on the same vCPU.",
            (*_VCPU, "reason", "class"),
            _histograms(exits),
        ),
        Family(
            "kvm_userspace_exits_total",
            "counter",
            "Returns of KVM_RUN to the VMM, by KVM_EXIT_* reason; restart: interrupted by a signal.",
            (*_VCPU, "reason"),
            [(labels, total.exits) for labels, total in userspace.items()],
        ),
        Family(
            "kvm_userspace_exit_duration_seconds",
            "histogram",
            "Time from an exit to the next entry, for exits that went out to the VMM, by why they first did.",
            (*_VCPU, "reason"),
            _histograms(userspace),
        ),
        Family(
            "kvm_vcpu_guest_seconds_total",
            "counter",
            "Time in guest mode, from an entry to the next exit.",
            _VCPU,
            [(labels, ns / 1e9) for labels, ns in guest_ns.items()],
        ),
        Family(
            "kvm_vcpu_exit_in_progress_seconds",
            "gauge",
            "Age of the exit the vCPU is in now; absent while it runs the guest.",
            (*_VCPU, "reason", "class"),
            list(progress.items()),
        ),
        Family(
            "kvm_vm_info",
            "gauge",
            "Identity of a VM, always 1.",
            ("pid", "vm", "uuid", "vmm"),
            [((str(vm.pid), vm.name, vm.uuid, vm.vmm), 1) for vm in vms],
        ),
    ]


def _accumulate(totals: dict[Labels, _Total], labels: Labels, cell: Cell) -> None:
    known = totals.get(labels)
    totals[labels] = known.plus(cell) if known else _Total(cell.exits, cell.sum_ns, cell.counts())


def _histograms(totals: dict[Labels, _Total]) -> list[tuple[Labels, Histogram]]:
    return [(labels, Histogram(total.counts, total.sum_ns / 1e9)) for labels, total in totals.items()]
