"""vCPU records for tests, made by hand or by hypothesis. Their expected totals are computed in a simple way."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from hypothesis import strategies as st

from exporter.config.options import Level, Reasons
from exporter.metrics.families import Family
from exporter.metrics.kvm import Identified, Metrics
from exporter.metrics.series import ReasonFilter
from exporter.model.reason import Reason, Space
from exporter.model.records import NO_PARTS, Cell, ExitInProgress, ThreadKey, TimeParts, VcpuRecord, VcpuTotals
from exporter.model.vm import Vcpu, Vm
from exporter.naming.reasons import ReasonNames

BUCKETS = 142
"""Bucket i ends at 2^((i - 92) / 4) s.

Bucket 0 has all shorter durations too. Bucket 141 has all durations above 2^12 s.
"""

WEB = Vm(pid=100, name="web-1", uuid="6f1c2a70", vmm="qemu")
NAME = ReasonNames().lookup

Name = Callable[[int, int], Reason]
Labels = tuple[str, ...]


def cell(
    space: int, code: int, exits: int, observed: Mapping[int, int], sum_ns: int, *, parts: TimeParts = NO_PARTS
) -> Cell:
    """Return a cell with the given buckets filled."""
    counts = [observed.get(number, 0) for number in range(BUCKETS)]
    return Cell(space, code, exits, sum_ns, struct.pack(f"={BUCKETS}Q", *counts), parts)


def record(
    pid: int,
    tid: int,
    *cells: Cell,
    born_ns: int = 1,
    guest_ns: int = 0,
    wait_ns: int | None = None,
    in_progress: ExitInProgress | None = None,
    alive: bool = True,
) -> VcpuRecord:
    """Return the record of one thread."""
    times = VcpuTotals(guest_ns, wait_ns)
    return VcpuRecord(ThreadKey(pid, tid, born_ns), b"", None, times, cells, in_progress, alive)


def of(vm: Vm, *records: VcpuRecord) -> list[Identified]:
    """Return each record with its vCPU. All vCPUs are of one VM. The index of a vCPU is tid - pid - 1."""
    return [(each, Vcpu(vm, str(each.key.tid - each.key.pid - 1))) for each in records]


def metrics(level: Level = Level(), name: Name = NAME, **lists: Iterable[str]) -> Metrics:  # noqa: B008 - frozen
    """Return metrics as the daemon makes them. The names in `lists` are "allow" and "deny"."""
    return Metrics(ReasonFilter(name, Reasons(**{key: tuple(names) for key, names in lists.items()})), level)


def families(vcpus: Sequence[Identified], level: Level = Level(), name: Name = NAME) -> list[Family]:  # noqa: B008
    """Return the families after a first snapshot of these vCPUs."""
    made = metrics(level, name)
    made.update(vcpus, [])
    return made.families(vcpus)


class Total(NamedTuple):
    """The expected values of a series."""

    exits: int
    sum_ns: int
    counts: tuple[int, ...]

    def __add__(self, other: Total) -> Total:  # type: ignore[override]
        counts = tuple(a + b for a, b in zip(self.counts, other.counts))
        return Total(self.exits + other.exits, self.sum_ns + other.sum_ns, counts)


def who(each: VcpuRecord, vcpu: Vcpu, level: str) -> Labels:
    """Return the labels that identify the vCPU or VM of a series."""
    pid, tid = str(each.key.pid), str(each.key.tid)
    return (pid, tid, vcpu.vm.name, vcpu.index) if level == "vcpu" else (pid, vcpu.vm.name)


def totals(vcpus: Iterable[Identified], level: str, name: Name, *, userspace: bool) -> dict[Labels, Total]:
    """Return the totals by label set. The label sets are in the order of their first appearance."""
    found: dict[Labels, Total] = {}
    for each, vcpu in vcpus:
        for one in each.cells:
            if (one.space in (Space.USERSPACE, Space.USERSPACE_ERRNO)) == userspace:
                reason = name(one.space, one.code)
                labels = (*who(each, vcpu, level), *(reason[:1] if userspace else reason))
                value = Total(one.exits, one.sum_ns, one.counts())
                found[labels] = found[labels] + value if labels in found else value
    return found


def total_of(member: str, vcpus: Iterable[Identified], level: str) -> dict[Labels, int]:
    """Return the sum of one member of VcpuTotals for each label set that has one."""
    found: dict[Labels, int] = {}
    for each, vcpu in vcpus:
        if (value := getattr(each.totals, member)) is not None:
            labels = who(each, vcpu, level)
            found[labels] = found.get(labels, 0) + value
    return found


def seconds_of(
    part: str, vcpus: Iterable[Identified], level: str, name: Name, *, userspace: bool
) -> dict[Labels, float]:
    """Return the sum of a part, "wait", "sleep" or "vmm", for each label set where it is not 0."""
    found: dict[Labels, int] = {}
    for each, vcpu in vcpus:
        for one in each.cells:
            if (one.space in (Space.USERSPACE, Space.USERSPACE_ERRNO)) == userspace:
                wait, off, vmm = one.parts
                reason = name(one.space, one.code)
                labels = (*who(each, vcpu, level), *(reason[:1] if userspace else reason))
                found[labels] = found.get(labels, 0) + {"wait": wait, "sleep": off - wait, "vmm": vmm}[part]
    return {labels: ns / 1e9 for labels, ns in found.items() if ns}


# These texts have no surrogates, because surrogates cannot be encoded. identify() never returns surrogates: it decodes
# with errors="replace".
HOSTILE = st.text(st.sampled_from('"\\\n\r\t\0 ,{}=#%n') | st.characters(exclude_categories=["Cs"]), max_size=40)


@st.composite
def observations(draw: st.DrawFn, most: int) -> dict[int, int]:
    """Draw a count for each bucket.

    Few or many buckets have a count, and counts are large or small. Their sum is at most `most`.
    """
    if draw(st.booleans()):
        return dict(enumerate(draw(st.binary(min_size=BUCKETS, max_size=BUCKETS))))
    counts = draw(st.dictionaries(st.integers(0, BUCKETS - 1), st.integers(1, most), max_size=12))
    return {number: count // len(counts) for number, count in counts.items()}


SPACES = [Space.VMX, Space.ARM64_TRAP, Space.USERSPACE, Space.USERSPACE_ERRNO]
CODES = 4


@st.composite
def cells(draw: st.DrawFn, most: int) -> Cell:
    """Draw a cell of any space. Its exits and its nanoseconds are each at most `most`."""
    observed = draw(observations(most))
    exits = draw(st.integers(sum(observed.values()), most))
    sum_ns = draw(st.integers(0, most))
    off = draw(st.integers(0, sum_ns))
    parts = TimeParts(draw(st.integers(0, off)), off, draw(st.integers(0, sum_ns)))
    return cell(draw(st.sampled_from(SPACES)), draw(st.integers(0, CODES - 1)), exits, observed, sum_ns, parts=parts)


@st.composite
def snapshots(draw: st.DrawFn, all_most: int = 2**63 - 1) -> list[Identified]:
    """Draw a few vCPUs of two VMs with hostile names.

    The sum of all counts and the sum of all times are at most `all_most`.
    """
    size = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    most = all_most // (size[0] * size[1])
    vms = [Vm(pid, draw(HOSTILE), draw(HOSTILE), draw(HOSTILE)) for pid in (100, 200)]
    vcpus: list[Identified] = []
    for born in range(size[0]):
        vm = draw(st.sampled_from(vms))
        tid = vm.pid + draw(st.integers(1, 2))  # if a tid is drawn twice, it is a reused tid
        found = draw(st.lists(cells(most), max_size=size[1], unique_by=lambda one: (one.space, one.code)))
        age = ExitInProgress(Space.VMX, 1, draw(st.integers(0, 2**63)))
        busy = draw(st.booleans()) and not any((each.key.pid, each.key.tid) == (vm.pid, tid) for each, _ in vcpus)
        made = record(
            vm.pid,
            tid,
            *found,
            born_ns=born,
            guest_ns=draw(st.integers(0, most)),
            wait_ns=draw(st.none() | st.integers(0, most)),
            in_progress=age if busy else None,
            alive=busy,
        )
        vcpus.append((made, Vcpu(vm, str(tid))))
    return vcpus


def names(texts: Sequence[str]) -> Name:
    """Return a function that gives these texts to codes as names. Codes with equal texts share a series."""

    def name(space: int, code: int) -> Reason:
        return Reason(texts[code % len(texts)], "idle" if code % 2 else texts[space % len(texts)])

    return name


NAMES = st.lists(HOSTILE, min_size=1, max_size=CODES).map(names)
