"""Rows of a difference for the user: filtered, summed by VM or by reason, and sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from exporter.model.records import NO_PARTS, ThreadKey, TimeParts
from exporter.readings.difference import Difference, ReasonDifference
from exporter.readings.reading import EXIT, VcpuReading


@dataclass(frozen=True)
class Filters:
    """The vCPUs and reasons to show. An empty set selects all. Names must match completely."""

    pids: frozenset[int] = frozenset()
    tids: frozenset[int] = frozenset()
    vms: frozenset[str] = frozenset()
    vcpus: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    no_idle: bool = False

    def apply(self, span: Difference) -> Difference:
        """Return only these vCPUs and reasons. A vCPU without reasons stays, because shares are parts of its time."""
        kept = []
        for vcpu in span.vcpus:
            thread = vcpu.thread
            for chosen, value in (
                (self.pids, thread.key.pid),
                (self.tids, thread.key.tid),
                (self.vms, thread.vm_label),
                (self.vcpus, thread.vcpu),
            ):
                if chosen and value not in chosen:
                    break
            else:
                kept.append(replace(vcpu, rows=[row for row in vcpu.rows if self._shows(row)]))
        return replace(span, vcpus=kept)

    def _shows(self, row: ReasonDifference) -> bool:
        return (not self.reasons or row.reason in self.reasons) and not (self.no_idle and row.idle)


GROUPS = ("vcpu", "vm", "reason")


def grouped(span: Difference, kind: str = EXIT, by: str = "vcpu") -> list[ReasonDifference]:
    """Return the reasons, summed over each vCPU, each VM or (by "reason") the host. A reused tid is one vCPU."""
    found: dict[tuple[object, ...], _Sum] = {}
    threads: dict[tuple[object, ...], set[ThreadKey]] = {}
    for vcpu in span.vcpus:
        group = _group(vcpu.thread, by)
        threads.setdefault(group, set()).add(vcpu.thread.key._replace(born_ns=0))
        for row in vcpu.rows:
            if row.kind == kind:
                key = (*group, row.reason)
                if key not in found:
                    found[key] = _Sum(row)
                found[key].add(row)
    return [total.row(by, span.elapsed_ns * len(threads[key[:-1]])) for key, total in found.items()]


def _group(thread: VcpuReading, by: str) -> tuple[object, ...]:
    if by == "vcpu":
        return (thread.key.pid, thread.key.tid)
    return (thread.key.pid, thread.vm_label) if by == "vm" else ()


@dataclass
class _Sum:
    first: ReasonDifference
    exits: int = 0
    sum_ns: int = 0
    time_ns: int = 0
    parts: TimeParts | None = NO_PARTS
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, row: ReasonDifference) -> None:
        self.exits += row.exits
        self.sum_ns += row.sum_ns
        self.time_ns += row.time_ns
        self.parts = self.parts.plus(row.parts) if self.parts and row.parts else None
        for number, value in row.buckets.items():
            self.buckets[number] = self.buckets.get(number, 0) + value

    def row(self, by: str, span_ns: int) -> ReasonDifference:
        total = replace(
            self.first,
            exits=self.exits,
            sum_ns=self.sum_ns,
            time_ns=self.time_ns,
            parts=self.parts,
            buckets=self.buckets,
            span_ns=span_ns,
        )
        if by == "vcpu":
            return total
        total = replace(total, tid=0, comm="", vcpu="")
        return total if by == "vm" else replace(total, pid=0, vm="")


_MEASURES: Mapping[str, Callable[[ReasonDifference], float]] = {
    "time": lambda row: row.time_ns,
    "count": lambda row: row.exits,
    "avg": lambda row: row.avg_ns or 0,
    "p50": lambda row: row.p50_ns or 0,
    "p99": lambda row: row.p99_ns or 0,
    "max": lambda row: row.max_ns or 0,
    "wait": lambda row: row.parts.wait if row.parts else 0,
    "sleep": lambda row: row.parts.sleep if row.parts else 0,
    "vmm": lambda row: row.parts.vmm if row.parts else 0,
}
SORT_KEYS = (*_MEASURES, "vm", "reason")


def ordered(rows: Iterable[ReasonDifference], key: str = "time", *, reverse: bool = False) -> list[ReasonDifference]:
    """Return sorted rows: the largest number first, names from A to Z. Idle reasons come last.

    Equal rows are sorted by ids.
    """
    kept = sorted(rows, key=lambda row: (row.vm, row.pid, _vcpu_order(row.vcpu), row.tid, row.reason))
    measure = _MEASURES.get(key)
    if measure:
        kept.sort(key=measure, reverse=not reverse)
    elif key == "reason":
        kept.sort(key=lambda row: row.reason, reverse=reverse)
    elif reverse:
        kept.reverse()
    return [row for row in kept if not row.idle] + [row for row in kept if row.idle]


def _vcpu_order(vcpu: str) -> tuple[int, str]:
    return (int(vcpu), vcpu) if vcpu.isascii() and vcpu.isdigit() and len(vcpu) < 10 else (1 << 31, vcpu)
