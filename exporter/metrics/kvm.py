"""Records to metric families: the kvm_* part of the contract.

The exporter's own metrics are in selfmetrics.py. Names and labels are API: dashboards and alerts hang on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exporter.metrics.families import CounterFamily, Family, HistogramFamily, PlainFamily
from exporter.metrics.series import NOTHING_CARRIED, CarriedOver, GuestTime, SeriesTable
from exporter.model.reason import NameReason
from exporter.model.records import Cell, ThreadKey, VcpuRecord
from exporter.model.vm import Vcpu, Vm

Identified = tuple[VcpuRecord, Vcpu]


@dataclass(frozen=True)
class Detail:
    """At what level series are served: vcpu, vm (sums over a VM's vCPUs) or off."""

    counters: str = "vcpu"
    histograms: str = "vcpu"


class Metrics:
    """The kvm_* families; remembers what it was shown until it is told to forget. Not thread-safe."""

    def __init__(self, name: NameReason, detail: Detail, bases: CarriedOver = NOTHING_CARRIED) -> None:
        self._name = name
        self._detail = detail
        levels = sorted({detail.counters, detail.histograms} - {"off"})
        self._exits = {level: SeriesTable(level, name, userspace=False, bases=bases) for level in levels}
        self._userspace = {level: SeriesTable(level, name, userspace=True, bases=bases) for level in levels}
        self._guest = GuestTime(detail.counters, bases)

    def update(self, vcpus: Sequence[Identified], vanished: Iterable[ThreadKey]) -> None:
        """Take over one snapshot: its vCPUs as far as their VM is known, and the threads no later one will have."""
        gone = list(vanished)
        for table in self._tables:
            for record, vcpu in vcpus:
                table.update(record, vcpu)
            table.forget(gone)
        for record, vcpu in vcpus:
            self._guest.update(record, vcpu)
        self._guest.forget(gone)

    def continue_from(self, earlier: Metrics) -> None:
        """Have every series that `earlier` has too go on from its value there, whatever it is made of here.

        Both must have seen the same snapshots last. After a change of what is served, no counter falls or jumps.
        """
        for mine, theirs in ((self._exits, earlier._exits), (self._userspace, earlier._userspace)):
            for level in mine.keys() & theirs.keys():
                mine[level].continue_from(theirs[level])
        if self._detail.counters == earlier._detail.counters:
            self._guest.continue_from(earlier._guest)

    def seen(self, key: ThreadKey) -> Sequence[Cell]:
        """A thread's cells as they were last shown to update(); none if they were not."""
        return next(iter(self._exits.values())).seen(key)

    def bases(self) -> CarriedOver:
        """What the series hold besides the threads that there are, for one who goes on from here."""
        return CarriedOver([base for table in self._tables for base in table.bases()], self._guest.bases())

    def drop_unmatched(self) -> None:
        """Let go of the bases given at the start that nothing has claimed: all that could is there."""
        for each in self._tables:
            each.drop_unmatched()
        self._guest.drop_unmatched()

    @property
    def _tables(self) -> Sequence[SeriesTable]:
        return (*self._exits.values(), *self._userspace.values())

    def families(self, vcpus: Sequence[Identified]) -> list[Family]:
        """The families as of the last update; `vcpus` are those of the snapshot."""
        families: list[Family] = []
        if self._detail.counters != "off":
            exits, userspace = self._exits[self._detail.counters], self._userspace[self._detail.counters]
            families += [
                CounterFamily("kvm_exits_total", "Exits from guest mode.", exits.labels, exits.series()),
                CounterFamily(
                    "kvm_userspace_exits_total",
                    "Returns of KVM_RUN to the VMM, by KVM_EXIT_* reason; restart: interrupted by a signal.",
                    userspace.labels,
                    userspace.series(),
                ),
                PlainFamily(
                    "kvm_vcpu_guest_seconds_total",
                    "counter",
                    "Time in guest mode, from an entry to the next exit.",
                    self._guest.labels,
                    [(labels, ns / 1e9) for labels, ns in self._guest.totals().items()],
                ),
            ]
        if self._detail.histograms != "off":
            exits, userspace = self._exits[self._detail.histograms], self._userspace[self._detail.histograms]
            families += [
                HistogramFamily(
                    "kvm_exit_duration_seconds",
                    "Time from an exit to the next entry into the guest on the same vCPU.",
                    exits.labels,
                    exits.series(),
                ),
                HistogramFamily(
                    "kvm_userspace_exit_duration_seconds",
                    "Time from an exit to the next entry, for exits that went out to the VMM, by why they first did.",
                    userspace.labels,
                    userspace.series(),
                ),
            ]
        return [*families, self._in_progress(vcpus), _vm_info(vcpus)]

    def _in_progress(self, vcpus: Sequence[Identified]) -> PlainFamily:
        samples: list[tuple[tuple[str, ...], float]] = []
        for record, vcpu in vcpus:
            if record.in_progress:
                reason = self._name(record.in_progress.space, record.in_progress.code)
                who = (str(record.key.pid), str(record.key.tid), vcpu.vm.name, vcpu.index)
                samples.append(((*who, *reason), record.in_progress.age_ns / 1e9))
        return PlainFamily(
            "kvm_vcpu_exit_in_progress_seconds",
            "gauge",
            "Age of the exit the vCPU is in now; absent while it runs the guest.",
            ("pid", "tid", "vm", "vcpu", "reason", "class"),
            samples,
        )


def _vm_info(vcpus: Sequence[Identified]) -> PlainFamily:
    vms: dict[Vm, None] = {vcpu.vm: None for _, vcpu in vcpus}
    return PlainFamily(
        "kvm_vm_info",
        "gauge",
        "Identity of a VM, always 1.",
        ("pid", "vm", "uuid", "vmm"),
        [((str(vm.pid), vm.name, vm.uuid, vm.vmm), 1.0) for vm in vms],
    )
