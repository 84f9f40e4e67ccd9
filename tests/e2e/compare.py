"""Compare a VM's own counts with those of the oracle and the exporter, while its vCPUs stay out of the guest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Union

from checks import Checks
from figures import Figure
from oracle import ARM64, INTEL, RISCV64, Oracle
from page import Page
from skipped import Skipped
from vms import ExactGuest, LinuxGuest, Vcpu

Vm = Union[ExactGuest, LinuxGuest]

# The last exit of an exact guest before it parks.
FAILED_ENTRY = "KVM_EXIT_FAIL_ENTRY"
LAST_EXIT, LAST_USERSPACE = ("EC_DABT_LOW", "KVM_EXIT_MMIO") if ARM64 else ("io", "KVM_EXIT_IO")
SLEEP, SLEEP_SECONDS = "EC_WFx" if ARM64 else "hlt", 0.001
if RISCV64:
    LAST_EXIT, LAST_USERSPACE, SLEEP = "EXC_STORE_GUEST_PAGE_FAULT", "KVM_EXIT_MMIO", "WFI"
if INTEL:
    LAST_EXIT, SLEEP = "IO_INSTRUCTION", "HLT"
CLASSES = {
    "EC_WFx": "idle", "EC_DABT_LOW": "mmio", "EC_IABT_LOW": "fault", "EC_HVC64": "hypercall", "EC_SYS64": "sysreg",
    "IRQ": "interrupt", "hlt": "idle", "io": "pio", "npf": "fault", "cpuid": "sysreg", "msr": "sysreg",
    "interrupt": "interrupt", "WFI": "idle", "CSR": "sysreg", "EXC_SUPERVISOR_SYSCALL": "hypercall",
    "EXC_LOAD_GUEST_PAGE_FAULT": "mmio", "EXC_STORE_GUEST_PAGE_FAULT": "mmio", "EXC_INST_GUEST_PAGE_FAULT": "fault",
    "EXC_INST_ILLEGAL": "exception", "IRQ_S_TIMER": "interrupt", "IRQ_S_SOFT": "interrupt", "IRQ_S_EXT": "interrupt",
    "HLT": "idle", "IO_INSTRUCTION": "pio", "EPT_VIOLATION": "fault", "EPT_MISCONFIG": "mmio",
    "CPUID": "sysreg", "MSR_READ": "sysreg", "MSR_WRITE": "sysreg", "VMCALL": "hypercall",
    "EXTERNAL_INTERRUPT": "interrupt", "PREEMPTION_TIMER": "interrupt", "INTERRUPT_WINDOW": "interrupt",
    "EXCEPTION_NMI": "exception", "TRIPLE_FAULT": "exception", "INVALID_STATE FAILED_VMENTRY": "other",
}  # fmt: skip
# Allows for the kernel's work between KVM_RUN and the first entry, and between an exit and the VMM.
SLACK_SECONDS = 0.5
# Interrupts of the host cause exits for these reasons. vintr: an interrupt waits until the guest enables interrupts.
INTERRUPTS = {"IRQ", "interrupt", "vintr", "EXTERNAL_INTERRUPT", "IRQ_S_TIMER", "IRQ_S_SOFT", "IRQ_S_EXT"}
TIMES = ("kvm_vcpu_guest_seconds_total", "kvm_exit_duration_seconds_sum", "kvm_vcpu_exit_in_progress_seconds")
VCPU_LABELS = {"pid", "tid", "vm", "vcpu"}
EXIT_LABELS = VCPU_LABELS | {"reason", "class"}
USERSPACE_LABELS = VCPU_LABELS | {"reason"}


@dataclass(frozen=True)
class Subject:
    """A vCPU of a VM at one time, and the oracle's counts of this vCPU."""

    what: str
    vm: Vm
    vcpu: Vcpu
    exits: dict[str, int]
    userspace: dict[str, int]


class Comparison:
    """Compares VMs with the oracle and, if an exporter runs, with its page."""

    def __init__(self, checks: Checks, oracle: Oracle) -> None:
        self.checks = checks
        self.figures: list[Figure] = []
        self.skipped = Skipped(checks)
        self.skipped_by_all = 0
        self._oracle = oracle
        self._ignored: dict[int, tuple[Counter[str], Counter[str]]] = {}

    def exporter_ends(self, page: Page) -> None:
        """Compare what this exporter skipped as a whole. The counters of the next exporter begin at 0."""
        self.skipped_by_all += self.skipped.compare_total(page, self._oracle.userspace_exits())
        self.skipped = Skipped(self.checks)

    def ignore_so_far(self, vm: Vm) -> None:
        """Subtract the oracle's present counts of this parked VM from all later counts."""
        exits, userspace = self._oracle.exits(), self._oracle.userspace_exits()
        for vcpu in vm.vcpus:
            self._ignored[vcpu.tid] = Counter(exits.get(vcpu.tid)), Counter(userspace.get(vcpu.tid))

    def parked(self, when: str, vm: Vm, page: Page | None, *, in_exit: bool = True) -> None:
        """Compare a VM whose vCPUs stay out of the guest. If `when` is set, add its counts to the figures.

        `in_exit` is False if the vCPUs' last VM entries failed: then the return to the VMM takes the place of the exit.
        """
        if page:
            self._identity(vm, page)
        for subject in self._subjects(vm, when):
            if isinstance(vm, ExactGuest):
                self._guest_and_oracle(subject)
            if page:
                self._histograms(subject, page, in_exit, self._counts(subject, page))
                self._in_progress(subject, page, in_exit)
                if in_exit:
                    self._time(subject, page)
            if when:
                self._add_figures(when, subject, page)

    def ended(self, vm: Vm, page: Page, *, in_exit: bool = True) -> None:
        """Check that the final counts of an ended VM are still served, and that it has no exit in progress."""
        self._identity(vm, page)
        for subject in self._subjects(vm, "ended"):
            self._histograms(subject, page, in_exit, self._counts(subject, page))
        running = page.select("kvm_vcpu_exit_in_progress_seconds", pid=vm.pid)
        self.checks.equal(f"{vm.identity.name} ended: exits in progress", running, [])

    def _subjects(self, vm: Vm, when: str) -> list[Subject]:
        exits, userspace = self._oracle.exits(), self._oracle.userspace_exits()
        subjects = []
        for vcpu in vm.vcpus:
            what = f"{vm.identity.name} vCPU {vcpu.index} {when}"
            ignored = self._ignored.get(vcpu.tid, (Counter(), Counter()))
            counts = Counter(exits.get(vcpu.tid)) - ignored[0], Counter(userspace.get(vcpu.tid)) - ignored[1]
            subjects.append(Subject(what, vm, vcpu, dict(counts[0]), dict(counts[1])))
        return subjects

    def counted(self, vms: Iterable[Vm], page: Page) -> None:
        """Check that all exits of VMs that were never scraped while they ran are served, under any name."""
        for subject in (subject for vm in vms for subject in self._subjects(vm, "unseen")):
            key = {"pid": subject.vm.pid, "tid": subject.vcpu.tid}
            served = page.by("reason", "kvm_exits_total", **key)
            self.checks.equal(f"{subject.what}: kvm_exits_total", served, subject.exits)
            self.skipped.compare(subject.what, page, subject.userspace, **key)

    def running(self, page: Page, earlier: Page | None) -> Page:
        """Check a scrape while guests run, and that no counter is lower than in the earlier scrape; return the page."""
        for name in ("kvm_exit_duration_seconds", "kvm_userspace_exit_duration_seconds"):
            totals = name.replace("_exit_duration_seconds", "_exits_total")
            for labels, count in page.select(f"{name}_count"):
                tid, reason = labels["tid"], labels["reason"]
                total = page.by("reason", totals, tid=tid)[reason]
                self.checks.between(f"running: {name}_count of {tid} {reason}", 0, count, total)
        for name in ("kvm_exits_total", "kvm_userspace_exits_total", "kvm_vcpu_guest_seconds_total"):
            now = {tuple(sorted(labels.items())): value for labels, value in page.select(name)}
            for labels, value in earlier.select(name) if earlier else ():
                key = tuple(sorted(labels.items()))
                self.checks.between(f"running: {name} of {labels} never falls", value, now.get(key, -1), float("inf"))
        self._buckets("running", page)
        return page

    def spinning(self, tid: int, page: Page, earlier: Page | None) -> Page:
        """Check a vCPU that always runs its guest: it is in no exit, or in one that a host interrupt caused."""
        running = page.by("reason", "kvm_vcpu_exit_in_progress_seconds", tid=tid)
        self.checks.true("spinning: exit in progress", set(running) <= INTERRUPTS, running)
        if earlier:
            name = "kvm_vcpu_guest_seconds_total"
            (_, now), (_, then) = *page.select(name, tid=tid), *earlier.select(name, tid=tid)
            elapsed = page.after - earlier.before
            self.checks.between("spinning: growth of the guest time", 1e-9, now - then, elapsed)
        return page

    def _buckets(self, what: str, page: Page, **labels: object) -> None:
        for name in ("kvm_exit_duration_seconds", "kvm_userspace_exit_duration_seconds"):
            counts = {tuple(sorted(found.items())): value for found, value in page.select(f"{name}_count", **labels)}
            buckets = page.buckets(name, **labels)
            self.checks.equal(f"{what}: series of {name} with buckets", set(buckets), set(counts))
            for series, bucket in buckets.items():
                cumulative = [bucket[bound] for bound in sorted(bucket)]
                self.checks.equal(f"{what}: buckets of {name} {series} rise", cumulative, sorted(cumulative))
                self.checks.equal(f"{what}: +Inf of {name} {series}", bucket.get(float("inf")), counts.get(series))

    def _guest_and_oracle(self, subject: Subject) -> None:
        equal, what, exits, vcpu = self.checks.equal, subject.what, subject.exits, subject.vcpu
        for reason, count in vcpu.exits.items():
            equal(f"{what}: oracle and guest on {reason}", exits.get(reason), count)
        for reason, bound in vcpu.at_most.items():
            self.checks.between(f"{what}: oracle and guest on {reason}", 1, exits.get(reason, 0), bound)
        unexpected = set(exits) - set(vcpu.exits) - set(vcpu.at_most) - INTERRUPTS
        equal(f"{what}: reasons that the guest did not cause", unexpected, set())
        equal(f"{what}: oracle and guest on userspace exits", subject.userspace, vcpu.userspace)

    def _identity(self, vm: Vm, page: Page) -> None:
        expected = {"pid": str(vm.pid), "vm": vm.identity.name, "uuid": vm.identity.uuid, "vmm": "qemu"}
        found = page.select("kvm_vm_info", pid=vm.pid)
        self.checks.equal(f"{vm.identity.name}: kvm_vm_info", found, [(expected, 1.0)])

    def _counts(self, subject: Subject, page: Page) -> dict[str, int]:
        """Compare the counts; return how many of the returns to the VMM the kernel skipped, by reason."""
        equal, what, vm, vcpu = self.checks.equal, subject.what, subject.vm, subject.vcpu
        served = page.by("reason", "kvm_exits_total", tid=vcpu.tid)
        equal(f"{what}: kvm_exits_total and the oracle", served, subject.exits)
        for reason, count in vcpu.exits.items():
            equal(f"{what}: kvm_exits_total and the guest on {reason}", served.get(reason), count)
        skipped = self.skipped.compare(what, page, subject.userspace, tid=vcpu.tid)
        if isinstance(vm, ExactGuest):
            seen = Counter(page.by("reason", "kvm_userspace_exits_total", tid=vcpu.tid))
            seen.update(skipped)
            equal(f"{what}: kvm_userspace_exits_total and the guest", dict(seen), vcpu.userspace)

        identity = {"pid": str(vm.pid), "tid": str(vcpu.tid), "vm": vm.identity.name}
        identity["vcpu"] = vm.identity.vcpu_label(vcpu.index)
        for name, labels in (
            ("kvm_exits_total", EXIT_LABELS),
            ("kvm_exit_duration_seconds_count", EXIT_LABELS),
            ("kvm_userspace_exits_total", USERSPACE_LABELS),
            ("kvm_userspace_exit_duration_seconds_count", USERSPACE_LABELS),
            ("kvm_vcpu_guest_seconds_total", VCPU_LABELS),
        ):
            for found, _ in page.select(name, tid=vcpu.tid):
                equal(f"{what}: label names of {name}", set(found), labels)
                equal(f"{what}: identity in {name}", {**found, **identity}, found)
                if "class" in labels and found["reason"] in CLASSES:
                    equal(f"{what}: class of {found['reason']}", found["class"], CLASSES[found["reason"]])
        return skipped

    def _histograms(self, subject: Subject, page: Page, in_exit: bool, skipped: dict[str, int]) -> None:
        equal, what, vcpu = self.checks.equal, subject.what, subject.vcpu
        exact = isinstance(subject.vm, ExactGuest)
        durations = page.by("reason", "kvm_exit_duration_seconds_count", tid=vcpu.tid)
        # The exit in progress has no duration, because its entry is still missing. Every other exit has a duration.
        missing = {reason: count - durations.get(reason, 0) for reason, count in subject.exits.items()}
        missing = {reason: count for reason, count in missing.items() if count}
        if exact:
            equal(f"{what}: exits without a duration", missing, {LAST_EXIT: 1} if in_exit else {})
        else:
            self.checks.true(f"{what}: exits without a duration", list(missing.values()) in ([], [1]), missing)

        durations = page.by("reason", "kvm_userspace_exit_duration_seconds_count", tid=vcpu.tid)
        if exact and in_exit and "restart" not in subject.userspace:
            counted = {name: count - skipped.get(name, 0) for name, count in subject.userspace.items()}
            expected = {name: count - (name == LAST_USERSPACE) for name, count in counted.items() if count}
            # The return of the exit in progress has no duration yet. If the kernel skipped it, each other has one.
            if skipped.get(LAST_USERSPACE) and durations.get(LAST_USERSPACE) == counted[LAST_USERSPACE] > 0:
                expected[LAST_USERSPACE] += 1
            equal(f"{what}: durations of userspace exits", durations, expected)
        for reason, count in durations.items():
            # There can be several returns to user space between an exit and its entry.
            self.checks.between(f"{what}: durations of {reason}", 0, count, subject.userspace.get(reason, 0))
        self._buckets(what, page, tid=vcpu.tid)

        if vcpu.sleep_ns:
            slept = page.by("reason", "kvm_exit_duration_seconds_sum", tid=vcpu.tid)[SLEEP]
            # The guest read its clock before and after each sleep. The rates of the two clocks may differ.
            low, high = subject.exits[SLEEP] * SLEEP_SECONDS, vcpu.sleep_ns / 1e9 * 1.01
            self.checks.between(f"{what}: seconds in {SLEEP}", low, slept, high)

    def _in_progress(self, subject: Subject, page: Page, in_exit: bool) -> None:
        what, vcpu, exact = subject.what, subject.vcpu, isinstance(subject.vm, ExactGuest)
        running = page.by("reason", "kvm_vcpu_exit_in_progress_seconds", tid=vcpu.tid)
        if exact:
            self.checks.equal(f"{what}: exit in progress", list(running), [LAST_EXIT if in_exit else FAILED_ENTRY])
        for reason, age in running.items():
            # The exit happened before the vCPU parked. A Linux guest may have waited in the kernel since long before.
            low = page.before - vcpu.parked_ns / 1e9
            high = page.after - (vcpu.parked_ns / 1e9 - SLACK_SECONDS if exact else vcpu.began_ns / 1e9)
            self.checks.between(f"{what}: age of {reason}", low, age, high)

    def _time(self, subject: Subject, page: Page) -> None:
        """Check that guest time, durations and the exit in progress fill the vCPU's lifetime without gap or overlap."""
        tid = subject.vcpu.tid
        if not isinstance(subject.vm, ExactGuest) or tid in self._ignored:
            return
        spent = sum(value for name in TIMES for _, value in page.select(name, tid=tid))
        began = subject.vcpu.began_ns / 1e9
        low, high = page.before - began - SLACK_SECONDS, page.after - began
        self.checks.between(f"{subject.what}: seconds accounted for", low, spent, high)

    def _add_figures(self, when: str, subject: Subject, page: Page | None) -> None:
        vcpu = subject.vcpu
        for name, own, counts in (
            ("kvm_exits_total", vcpu.exits, subject.exits),
            ("kvm_userspace_exits_total", vcpu.userspace, subject.userspace),
        ):
            served = page.by("reason", name, tid=vcpu.tid) if page else {}
            for reason in sorted(counts):
                bound = f"<={vcpu.at_most[reason]}" if reason in vcpu.at_most else "-"
                guest = str(own[reason]) if reason in own else bound
                exporter = served.get(reason, 0) if page else None
                place = subject.vm.identity.name, vcpu.index, when, reason
                self.figures.append(Figure(*place, guest, counts[reason], exporter))
