"""The difference of two readings: for each vCPU and reason, the exits between the two readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from exporter.model.buckets import bound_ns
from exporter.model.records import NO_PARTS, TimeParts
from exporter.readings.reading import EXIT, Reading, ReasonReading, VcpuReading

IDLE = "idle"


@dataclass(frozen=True)
class ReasonDifference:
    """One reason of one vCPU, or of several vCPUs together, between two readings."""

    pid: int
    tid: int
    comm: str
    vm: str
    vcpu: str
    kind: str
    reason: str
    klass: str
    exits: int
    sum_ns: int
    """Duration of the intervals that ended between the readings. Each interval counts from its beginning."""
    buckets: Mapping[int, int]
    parts: TimeParts | None
    """Where `sum_ns` went; None where the exporter cannot tell."""
    time_ns: int
    """Time out of the guest between the readings, including the exit in progress."""
    span_ns: int
    """Time between the readings, times the number of vCPUs."""
    elapsed_ns: int
    """Time between the readings."""

    @property
    def completed(self) -> int:
        """Intervals that were completed between the readings."""
        return sum(self.buckets.values())

    @property
    def avg_ns(self) -> int | None:
        """Mean duration of the completed intervals, rounded down; None without a completed interval."""
        completed = self.completed
        return self.sum_ns // completed if completed else None

    @property
    def rate(self) -> float:
        """Exits per second."""
        return self.exits * 1e9 / self.elapsed_ns if self.elapsed_ns else 0.0

    @property
    def share(self) -> float:
        """The part of the vCPUs' time that this reason took, 0 to 1."""
        return min(1.0, self.time_ns / self.span_ns) if self.span_ns else 0.0

    def within(self, part_ns: int) -> float:
        """Return the time between the readings, in ns, that a part of `sum_ns` took.

        `sum_ns` has intervals that began before the first reading completely. So the part shrinks if `time_ns` is less.
        """
        return part_ns * min(1.0, self.time_ns / self.sum_ns) if self.sum_ns else 0.0

    def part_share(self, name: str) -> float:
        """The share of the vCPUs' time that a member of TimeParts took, 0 to 1."""
        if not self.parts or not self.span_ns:
            return 0.0
        return min(1.0, self.within(getattr(self.parts, name)) / self.span_ns)

    @property
    def idle(self) -> bool:
        """True if the guest was idle in these intervals."""
        return self.klass == IDLE

    def percentile_ns(self, percent: int) -> int | None:
        """Upper bound, in ns, of the bucket with the percentile (1 to 100); None without a completed interval.

        A bucket is 19 % wide. The last bucket, above 2^12 s, has no bound: the result is then the sum of all intervals.
        """
        completed = self.completed
        rank, seen = -(-completed * percent // 100), 0
        for number in sorted(self.buckets):
            seen += self.buckets[number]
            if seen >= rank:
                bound = bound_ns(number)
                return self.sum_ns if bound is None else bound
        return None

    @property
    def p50_ns(self) -> int | None:
        """Half of the completed intervals took at most this time."""
        return self.percentile_ns(50)

    @property
    def p99_ns(self) -> int | None:
        """99 of 100 completed intervals took at most this time."""
        return self.percentile_ns(99)

    @property
    def max_ns(self) -> int | None:
        """Upper bound of the longest completed interval."""
        return self.percentile_ns(100)


@dataclass(frozen=True)
class VcpuDifference:
    """All reasons of one vCPU, and its time in the guest, between two readings."""

    thread: VcpuReading
    guest_ns: int
    wait_ns: int | None
    """Time in which the thread could run, but had no CPU; None if unknown."""
    rows: Sequence[ReasonDifference]


@dataclass(frozen=True)
class Difference:
    """The difference of two readings."""

    elapsed_ns: int
    counters: Mapping[str, int]
    vcpus: Sequence[VcpuDifference]

    def rows(self, kind: str = EXIT) -> list[ReasonDifference]:
        """The reasons of one kind of all vCPUs, unsorted."""
        return [row for vcpu in self.vcpus for row in vcpu.rows if row.kind == kind]


class ReadingSpan:
    """The first and the last reading of a run. A vCPU that is missing in a later reading keeps its last values."""

    def __init__(self, first: Reading) -> None:
        self.first = self.last = first

    def add(self, reading: Reading) -> Reading:
        """Take a later reading. Returns it together with the last values of the vCPUs that are missing in it."""
        present = {thread.key for thread in reading.vcpus}
        missing = [
            thread._replace(alive=False, in_progress=None) for thread in self.last.vcpus if thread.key not in present
        ]
        self.last = replace(reading, vcpus=[*reading.vcpus, *missing])
        return self.last


def between(then: Reading, now: Reading) -> Difference:
    """The difference of a reading and a later one."""
    elapsed = max(0, now.taken_ns - then.taken_ns)
    before = {thread.key: thread for thread in then.vcpus}
    vcpus = []
    for thread in now.vcpus:
        earlier = before.get(thread.key)
        if thread is earlier or (earlier and not earlier.alive and not thread.alive):
            continue  # it ended before the first reading
        vcpus.append(_of_thread(earlier, thread, elapsed))
    restarted = now.since_ns != then.since_ns
    counters = {
        name: max(0, value - (0 if restarted else then.counters.get(name, 0))) for name, value in now.counters.items()
    }
    return Difference(elapsed, counters, vcpus)


def added(now: Mapping[int, int], then: Mapping[int, int]) -> dict[int, int]:
    """Return the growth of each bucket. Buckets that did not grow are left out."""
    differences = {number: count - then.get(number, 0) for number, count in now.items()}
    return {number: count for number, count in differences.items() if count > 0}


def grown(now: TimeParts | None, then: TimeParts | None, sum_ns: int) -> TimeParts | None:
    """Return the growth of the parts, in the bounds that `sum_ns`, the growth of their sum, sets."""
    if now is None or then is None:
        return None
    wait, off, vmm = map(max, now.minus(then), NO_PARTS)
    return TimeParts(min(wait, off), off, vmm).within(sum_ns)


def _of_thread(then: VcpuReading | None, now: VcpuReading, elapsed_ns: int) -> VcpuDifference:
    old = {(counted.kind, counted.reason): counted for counted in then.reasons} if then else {}
    rows = []
    for counted in now.reasons:
        earlier = old.get((counted.kind, counted.reason))
        row = _of_reason(now, counted, earlier, elapsed_ns, _age(now, counted) - (_age(then, counted) if then else 0))
        if row.exits or row.buckets or row.time_ns:
            rows.append(row)
    guest_ns = max(0, now.guest_ns - (then.guest_ns if then else 0))
    return VcpuDifference(now, guest_ns, _waited(then, now), rows)


def _waited(then: VcpuReading | None, now: VcpuReading) -> int | None:
    if now.wait_ns is None:
        return None
    if then:
        return None if then.wait_ns is None else max(0, now.wait_ns - then.wait_ns)
    # Only the program counts from the thread's first event. /proc counts from the start of the thread.
    return now.wait_ns if all(counted.parts for counted in now.reasons) else None


def _age(thread: VcpuReading, counted: ReasonReading) -> int:
    """Age in ns of the exit that the vCPU is in, if its reason is this one; else 0."""
    current = thread.in_progress
    return current.age_ns if current and counted.kind == EXIT and counted.reason == current.reason else 0


def _of_reason(
    thread: VcpuReading, now: ReasonReading, then: ReasonReading | None, elapsed_ns: int, grown_ns: int
) -> ReasonDifference:
    exits, sum_ns, buckets, parts = now.exits, now.sum_ns, now.buckets, now.parts
    if then:
        exits, sum_ns = max(0, exits - then.exits), max(0, sum_ns - then.sum_ns)
        buckets = added(buckets, then.buckets)
        parts = grown(parts, then.parts, sum_ns)
    return ReasonDifference(
        pid=thread.key.pid,
        tid=thread.key.tid,
        comm=thread.comm,
        vm=thread.vm_label,
        vcpu=thread.vcpu,
        kind=now.kind,
        reason=now.reason,
        klass=now.klass,
        exits=exits,
        sum_ns=sum_ns,
        buckets=buckets,
        parts=parts,
        time_ns=max(0, sum_ns + grown_ns),
        span_ns=elapsed_ns,
        elapsed_ns=elapsed_ns,
    )
