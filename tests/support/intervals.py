"""Exits of one thread in random order, and the record that they must give."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from exporter.model.records import VcpuRecord
from tests.support.machine import Vcpu, durations, exits, histogram


class Interval(NamedTuple):
    """The vCPU is in the guest for `in_ns`, exits for a reason (space, code), and is out for `out_ns`."""

    reason: tuple[int, int]
    out_ns: int
    in_ns: int


def draw_intervals(number: int, reasons: Sequence[tuple[int, int]], primes: Sequence[int]) -> list[Interval]:
    """Draw the intervals of thread `number`. Each reason occurs a prime number of times."""
    chance = random.Random(number)
    events = [reason for index, reason in enumerate(reasons) for _ in range(primes[(number + index) % len(primes)])]
    chance.shuffle(events)
    return [
        Interval(reason, chance.randrange(1, 10 ** chance.randrange(2, 13)), chance.randrange(1, 10**6))
        for reason in events
    ]


def play(vcpu: Vcpu, intervals: Sequence[Interval], leave: Callable[[Vcpu, int, Interval], None]) -> Callable[[], None]:
    """Return a function that runs the intervals in the vCPU's thread. `leave` is the exit of one interval at a time."""

    def run() -> None:
        now = 1_000_000
        vcpu.entry(now)
        for interval in intervals:
            now += interval.in_ns
            leave(vcpu, now, interval)
            now += interval.out_ns
            vcpu.entry(now)

    return run


def assert_counted(record: VcpuRecord, intervals: Sequence[Interval]) -> None:
    """Assert that the record has exactly these intervals."""
    expected: dict[tuple[int, int], list[int]] = defaultdict(list)
    for interval in intervals:
        expected[interval.reason].append(interval.out_ns)
    assert exits(record) == {reason: len(times) for reason, times in expected.items()}
    assert durations(record) == {reason: (histogram(times), sum(times)) for reason, times in expected.items()}
    assert record.totals.guest_ns == sum(interval.in_ns for interval in intervals)
