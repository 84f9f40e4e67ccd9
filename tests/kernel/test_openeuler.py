"""openEuler's arm64 kernels: the class of a trap comes in kvm_trap_enter. Each exit is counted once, in its cell."""

from __future__ import annotations

import os
from collections.abc import Callable

from exporter.model.reason import Space
from tests.support.intervals import Interval, assert_counted, draw_intervals, play
from tests.support.machine import TRAP, Machine, Vcpu, durations, exits, histogram, trap

Load = Callable[..., Machine]

WFX, HVC64, SYS64, IABT, DABT = 0x01, 0x16, 0x18, 0x20, 0x24
IRQ, NO_CLASS = (Space.ARM64_RET, 0), (Space.ARM64_RET, TRAP)
SERROR_PENDING = 0x80000000
MMIO = 6


def _load(machine: Load) -> Machine:
    return machine("arm64_openeuler")


def _exit(vcpu: Vcpu, now: int, reason: tuple[int, int], wait: int) -> None:
    """An exit at `now`, and its class `wait` ns later."""
    space, code = reason
    if reason == NO_CLASS:
        vcpu.euler_exit(now, SERROR_PENDING | TRAP)
    elif space == Space.ARM64_TRAP:
        vcpu.euler_exit(now, TRAP)
        vcpu.trap_enter(now + wait, code)
    else:
        vcpu.euler_exit(now, code)


def _leave(vcpu: Vcpu, now: int, interval: Interval) -> None:
    _exit(vcpu, now, interval.reason, interval.out_ns // 2)


def test_counts_every_exit_of_many_threads(machine: Load) -> None:
    """13 threads run at the same time. Durations begin at kvm_exit, however late the class comes."""
    primes = [101, 211, 307, 401, 503, 601]
    under_test = _load(machine)
    vcpus = [under_test.vcpu(f"CPU {number}/KVM") for number in range(13)]
    intervals = {
        vcpu.tid: draw_intervals(number, (trap(WFX), trap(HVC64), trap(SYS64), trap(DABT), IRQ, NO_CLASS), primes)
        for number, vcpu in enumerate(vcpus)
    }

    for vcpu in vcpus:
        vcpu.begin(play(vcpu, intervals[vcpu.tid], _leave))
    for vcpu in vcpus:
        vcpu.finish()

    snapshot = under_test.collect()
    assert {record.key.tid for record in snapshot.vcpus} == intervals.keys()
    for record in snapshot.vcpus:
        assert_counted(record, intervals[record.key.tid])
        assert record.vcpu_id == 5
    assert set(snapshot.counters.values()) == {0}
    assert snapshot.cells_in_use == 13 * 6


def test_threads_that_take_turns_on_one_cpu_between_exit_and_class(machine: Load) -> None:
    """Each thread is preempted between kvm_exit and kvm_trap_enter. A class must not reach another thread's exit."""
    under_test = _load(machine)
    cpu = min(os.sched_getaffinity(0))
    vcpus = [under_test.vcpu(f"CPU {number}/KVM") for number in range(7)]
    for vcpu in vcpus:
        vcpu.call(lambda: os.sched_setaffinity(0, {cpu}))
    for step in range(211):
        for number, vcpu in enumerate(vcpus):
            vcpu.call(lambda: vcpu.euler_exit(step * 1000, TRAP, number))
        for number, vcpu in enumerate(vcpus):
            if (step + number) % 7:  # each seventh trap has no class
                vcpu.call(lambda: vcpu.trap_enter(step * 1000 + 100, number, number))
        for vcpu in vcpus:
            vcpu.call(lambda: vcpu.entry(step * 1000 + 500))
    for number, vcpu in enumerate(vcpus):
        record = under_test.record(vcpu)
        without = sum((step + number) % 7 == 0 for step in range(211))
        assert exits(record) == {trap(number): 211 - without, NO_CLASS: without}
        assert durations(record)[trap(number)] == (histogram([500] * (211 - without)), (211 - without) * 500)
        assert durations(record)[NO_CLASS] == (histogram([500] * without), without * 500)
        assert record.totals.guest_ns == 210 * 500
        assert record.vcpu_id == number


def test_an_exit_without_a_class_is_counted_at_the_next_event(machine: Load) -> None:
    under_test = _load(machine)
    ended = under_test.vcpu()
    vcpu = under_test.vcpu()

    def play() -> None:
        vcpu.trap_enter(500, WFX)  # attached between exit and class: there is no exit to name
        vcpu.entry(1000)
        now = 1000
        for _ in range(101):  # two exits without an entry between
            vcpu.euler_exit(now + 10, TRAP)
            vcpu.euler_exit(now + 20, TRAP)
            vcpu.trap_enter(now + 30, DABT)
            now += 120
            vcpu.entry(now)
        for _ in range(53):  # an exit that is no trap ends the wait, too
            vcpu.euler_exit(now + 10, TRAP)
            vcpu.euler_exit(now + 20, 0)
            now += 320
            vcpu.entry(now)
        for _ in range(37):  # and so does a return to the VMM
            vcpu.euler_exit(now + 10, TRAP)
            vcpu.userspace_exit(now + 20, MMIO)
            vcpu.trap_enter(now + 30, DABT)  # too late
            now += 510
            vcpu.entry(now)
        for _ in range(29):  # a class comes once
            vcpu.euler_exit(now + 10, TRAP)
            vcpu.trap_enter(now + 20, HVC64)
            vcpu.trap_enter(now + 30, WFX)
            now += 710
            vcpu.entry(now)
            vcpu.trap_enter(now + 1, WFX)

    def end() -> None:
        ended.euler_exit(10, TRAP)
        ended.dies(20)

    vcpu.call(play)
    ended.call(end)
    snapshot = under_test.collect()
    records = {record.key.tid: record for record in snapshot.vcpus}
    assert exits(records[ended.tid]) == {NO_CLASS: 1}
    assert not records[ended.tid].alive
    record = records[vcpu.tid]
    assert exits(record) == {
        NO_CLASS: 101 + 53 + 37,
        trap(DABT): 101,
        IRQ: 53,
        (Space.USERSPACE, MMIO): 37,
        trap(HVC64): 29,
    }
    found = durations(record)
    assert found[NO_CLASS] == (histogram([500] * 37), 37 * 500)
    assert found[trap(DABT)] == (histogram([100] * 101), 101 * 100)
    assert found[IRQ] == (histogram([300] * 53), 53 * 300)
    assert found[Space.USERSPACE, MMIO] == (histogram([500] * 37), 37 * 500)
    assert found[trap(HVC64)] == (histogram([700] * 29), 29 * 700)
    assert {name: count for name, count in snapshot.counters.items() if count} == {"unmatched_exit": 101 + 53}


def test_the_exit_in_progress_has_a_reason_as_soon_as_the_class_is_there(machine: Load) -> None:
    under_test = _load(machine)
    vcpu = under_test.vcpu()
    vcpu.call(lambda: vcpu.entry(1000))
    vcpu.call(lambda: vcpu.euler_exit(3000, TRAP))
    under_test.now = 4000
    record = under_test.record(vcpu)
    assert (exits(record), record.in_progress, record.totals.guest_ns) == ({}, None, 2000)
    vcpu.call(lambda: vcpu.trap_enter(5000, WFX))
    under_test.now = 6000
    record = under_test.record(vcpu)
    assert exits(record) == {trap(WFX): 1}
    assert record.in_progress == (Space.ARM64_TRAP, WFX, 3000)
    assert record.totals.guest_ns == 2000


def test_a_recorded_exit_has_its_class(machine: Load) -> None:
    """Replay passes space and class after the arguments. Without them, the class follows."""
    under_test = _load(machine)
    vcpu = under_test.vcpu()

    def play() -> None:
        for _ in range(7):
            vcpu.run("kvm_exit", 1_000, 5, TRAP, 0, Space.ARM64_TRAP, DABT)
            vcpu.entry(1_500)
        for _ in range(11):
            vcpu.run("kvm_exit", 1_000, 5, TRAP, 0, Space.ARM64_RET, TRAP)
            vcpu.trap_enter(1_100, HVC64)  # too late
            vcpu.entry(1_500)

    vcpu.call(play)
    record = under_test.record(vcpu)
    assert exits(record) == {trap(DABT): 7, NO_CLASS: 11}
    assert record.vcpu_id == 5


def test_exits_that_have_no_room_are_dropped_once(machine: Load) -> None:
    under_test = machine("arm64_openeuler", slots=1, cells=1)
    first, second = under_test.vcpu(), under_test.vcpu()

    def play(vcpu: Vcpu) -> None:
        for number in range(17):
            _exit(vcpu, number * 100, trap(WFX), 10)
            vcpu.entry(number * 100 + 50)
        for number in range(17, 30):
            _exit(vcpu, number * 100, trap(DABT), 10)
            vcpu.entry(number * 100 + 50)
        for number in range(30, 37):
            _exit(vcpu, number * 100, NO_CLASS, 10)
            vcpu.entry(number * 100 + 50)

    first.call(lambda: play(first))
    second.call(lambda: play(second))
    snapshot = under_test.collect()
    assert [exits(record) for record in snapshot.vcpus] == [{trap(WFX): 17}]
    assert {name: count for name, count in snapshot.counters.items() if count} == {
        "dropped_no_slot": 17 + 13 + 7,
        "dropped_no_cell": 13 + 7,
    }
