"""Makes metric families of records: the kvm_* part of the contract.

The exporter's own metrics are in own.py. Names and labels are API: dashboards and alerts depend on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from exporter.config.options import Level
from exporter.metrics.carried import NOTHING_CARRIED, CarriedOver
from exporter.metrics.families import CounterFamily, Family, HistogramFamily, PartFamily, PlainFamily
from exporter.metrics.tables import SeriesTable, TotalsTable, owner_labels
from exporter.model.reason import NameReason
from exporter.model.records import Cell, ThreadKey, VcpuRecord
from exporter.model.vm import Vcpu, Vm

Identified = tuple[VcpuRecord, Vcpu]
"""A record, with the VM and the index of its vCPU."""


class TotalsFamily(NamedTuple):
    """A counter that each vCPU has only once, without a reason."""

    member: str
    """Name of a member of VcpuTotals."""
    name: str
    help: str
    divisor: float = 1e9
    """Number of units of the member in one unit of the family; by default ns in a second."""


GUEST = TotalsFamily("guest_ns", "kvm_vcpu_guest_seconds_total", "Time in guest mode, from an entry to the next exit.")
WAIT = TotalsFamily("wait_ns", "kvm_vcpu_wait_seconds_total", "Time the vCPU thread could run but had no CPU.")


class Metrics:
    """The kvm_* families. Each thread stays in memory until update() gets it as vanished. Not thread-safe."""

    def __init__(self, name: NameReason, level: Level, carried: CarriedOver = NOTHING_CARRIED) -> None:
        self._name = name
        self._level = level
        levels = sorted({level.counters, level.histograms, level.time} - {"off"})
        self._exits = {each: SeriesTable(each, name, userspace=False, carried=carried) for each in levels}
        self._userspace = {each: SeriesTable(each, name, userspace=True, carried=carried) for each in levels}
        self._guest = TotalsTable(GUEST.member, level.counters, carried)
        self._wait = TotalsTable(WAIT.member, "vcpu", carried)

    def update(self, vcpus: Sequence[Identified], vanished: Iterable[ThreadKey]) -> None:
        """Update from one snapshot: its vCPUs whose VM is known, and the threads that no later snapshot will have."""
        ended = list(vanished)
        for table in self._tables:
            for record, vcpu in vcpus:
                table.update(record, vcpu)
            table.forget(ended)
        for totals in self._totals:
            for record, vcpu in vcpus:
                totals.update(record, vcpu)
            totals.forget(ended)

    def continue_from(self, earlier: Metrics) -> None:
        """Continue each series from its value in `earlier`, even if the series is now the sum of other cells.

        So no counter falls or jumps when the configuration changes. Both must have had their last update() from the
        same snapshot.
        """
        for mine, theirs in ((self._exits, earlier._exits), (self._userspace, earlier._userspace)):
            for level in mine.keys() & theirs.keys():
                mine[level].continue_from(theirs[level])
        if self._level.counters == earlier._level.counters:
            self._guest.continue_from(earlier._guest)
        self._wait.continue_from(earlier._wait)

    def seen(self, key: ThreadKey) -> Sequence[Cell]:
        """Return the cells of a thread at its last update(); none if it had no update."""
        return next(iter(self._exits.values())).seen(key)

    def carried_over(self) -> CarriedOver:
        """Return the counts carried over from ended threads, including unmatched ones, for the next metrics."""
        return CarriedOver(
            [each for table in self._tables for each in table.carried_over()],
            {totals.member: totals.carried_over() for totals in self._totals},
        )

    def drop_unmatched(self) -> None:
        """Drop the carried counts that no series has taken.

        Call this only when every thread that could take them was seen.
        """
        for table in self._tables:
            table.drop_unmatched()
        for totals in self._totals:
            totals.drop_unmatched()

    @property
    def _tables(self) -> Sequence[SeriesTable]:
        return (*self._exits.values(), *self._userspace.values())

    @property
    def _totals(self) -> Sequence[TotalsTable]:
        return (self._guest, self._wait)

    def families(self, vcpus: Sequence[Identified]) -> list[Family]:
        """Return the families after the last update. `vcpus` are the vCPUs of the last snapshot."""
        families: list[Family] = []
        if self._level.counters != "off":
            exits, userspace = self._exits[self._level.counters], self._userspace[self._level.counters]
            families += [
                CounterFamily("kvm_exits_total", "Exits from guest mode.", exits.labels, exits.series()),
                CounterFamily(
                    "kvm_userspace_exits_total",
                    "Returns of KVM_RUN to the VMM, by KVM_EXIT_* reason; restart: interrupted by a signal.",
                    userspace.labels,
                    userspace.series(),
                ),
                _totals_family(GUEST, self._guest),
            ]
        if self._level.histograms != "off":
            exits, userspace = self._exits[self._level.histograms], self._userspace[self._level.histograms]
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
        if self._level.time != "off":
            families += self._time_families()
        return [*families, self._in_progress(vcpus), _vm_info(vcpus)]

    def _time_families(self) -> list[Family]:
        exits, userspace = self._exits[self._level.time], self._userspace[self._level.time]
        return [
            _totals_family(WAIT, self._wait),
            PartFamily(
                "kvm_exit_wait_seconds_total",
                "Part of kvm_exit_duration_seconds in which the vCPU thread could run but had no CPU.",
                exits.labels,
                "wait",
                exits.series(),
            ),
            PartFamily(
                "kvm_exit_sleep_seconds_total",
                "Part of kvm_exit_duration_seconds in which the vCPU thread slept.",
                exits.labels,
                "sleep",
                exits.series(),
            ),
            PartFamily(
                "kvm_userspace_exit_vmm_seconds_total",
                "Part of kvm_userspace_exit_duration_seconds after KVM_RUN returned to the VMM.",
                userspace.labels,
                "vmm",
                userspace.series(),
            ),
            PartFamily(
                "kvm_userspace_exit_vmm_wait_seconds_total",
                "Part of kvm_userspace_exit_vmm_seconds_total in which the vCPU thread could run but had no CPU.",
                userspace.labels,
                "wait",
                userspace.series(),
            ),
            PartFamily(
                "kvm_userspace_exit_vmm_sleep_seconds_total",
                "Part of kvm_userspace_exit_vmm_seconds_total in which the vCPU thread slept.",
                userspace.labels,
                "sleep",
                userspace.series(),
            ),
        ]

    def _in_progress(self, vcpus: Sequence[Identified]) -> PlainFamily:
        samples: list[tuple[tuple[str, ...], float]] = []
        for record, vcpu in vcpus:
            if record.in_progress:
                reason = self._name(record.in_progress.space, record.in_progress.code)
                owner = owner_labels(record.key, vcpu, vcpu_level=True)
                samples.append(((*owner, *reason), record.in_progress.age_ns / 1e9))
        return PlainFamily(
            "kvm_vcpu_exit_in_progress_seconds",
            "gauge",
            "Age of the exit the vCPU is in now; absent while it runs the guest.",
            ("pid", "tid", "vm", "vcpu", "reason", "class"),
            samples,
        )


def _totals_family(family: TotalsFamily, totals: TotalsTable) -> PlainFamily:
    samples = [(labels, count / family.divisor) for labels, count in totals.sums().items()]
    return PlainFamily(family.name, "counter", family.help, totals.labels, samples)


def _vm_info(vcpus: Sequence[Identified]) -> PlainFamily:
    vms: dict[Vm, None] = {vcpu.vm: None for _, vcpu in vcpus}
    return PlainFamily(
        "kvm_vm_info",
        "gauge",
        "Identity of a VM, always 1.",
        ("pid", "vm", "uuid", "vmm"),
        [((str(vm.pid), vm.name, vm.uuid, vm.vmm), 1.0) for vm in vms],
    )
