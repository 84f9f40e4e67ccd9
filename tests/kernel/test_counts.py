"""Every exit is counted in its cell, and every interval in its bucket.

The counts are known primes, compared exactly.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

from exporter.model.reason import Space
from tests.support.intervals import Interval, assert_counted, draw_intervals, play
from tests.support.machine import TRAP, Machine, Vcpu, durations, exits, histogram, trap

Load = Callable[..., Machine]

WFX, HVC64, SYS64, IABT, DABT = 0x01, 0x16, 0x18, 0x20, 0x24
IRQ = (Space.ARM64_RET, 0)


def test_every_exit_of_many_threads_is_counted(machine: Load) -> None:
    """23 threads run at the same time.

    Each thread has exits of five reasons in random order. Each count is another prime.
    """
    primes = [101, 211, 307, 401, 503, 601, 701, 809, 907, 1009]
    under_test = machine()
    vcpus = [under_test.vcpu(f"CPU {number}/KVM") for number in range(23)]
    intervals = {
        vcpu.tid: draw_intervals(number, (trap(WFX), trap(HVC64), trap(SYS64), trap(DABT), IRQ), primes)
        for number, vcpu in enumerate(vcpus)
    }
    for vcpu in vcpus:
        vcpu.begin(play(vcpu, intervals[vcpu.tid], _leave))
    for vcpu in vcpus:
        vcpu.finish()

    snapshot = under_test.collect()
    assert {record.key.tid for record in snapshot.vcpus} == intervals.keys()
    for record in snapshot.vcpus:
        assert record.key.pid == os.getpid()
        assert_counted(record, intervals[record.key.tid])
    assert sorted(record.comm for record in snapshot.vcpus) == sorted(
        f"CPU {number}/KVM".encode() for number in range(23)
    )
    assert set(snapshot.counters.values()) == {0}
    assert snapshot.slots_in_use == 23
    assert snapshot.cells_in_use == 23 * 5


def _leave(vcpu: Vcpu, now: int, interval: Interval) -> None:
    space, code = interval.reason
    if space == Space.ARM64_TRAP:
        vcpu.arm_exit(now, TRAP, code)
    else:
        vcpu.arm_exit(now, code)


def test_every_exit_of_many_threads_on_one_cpu_is_counted(machine: Load) -> None:
    """At each event, the per-CPU cache still points to another thread's slot.

    The event must not be counted in that slot.
    """
    under_test = machine()
    cpu = min(os.sched_getaffinity(0))
    vcpus = [under_test.vcpu(f"CPU {number}/KVM") for number in range(13)]
    for vcpu in vcpus:
        vcpu.call(lambda: os.sched_setaffinity(0, {cpu}))
    for step in range(211):
        for number, vcpu in enumerate(vcpus):
            vcpu.call(lambda: vcpu.arm_exit(step * 1000, TRAP, number))
            vcpu.call(lambda: vcpu.entry(step * 1000 + 500))
    for number, vcpu in enumerate(vcpus):
        record = under_test.record(vcpu)
        assert exits(record) == {trap(number): 211}
        assert durations(record) == {trap(number): (histogram([500] * 211), 211 * 500)}
        assert record.totals.guest_ns == 210 * 500


def test_arm64_return_codes_are_decoded(machine: Load) -> None:
    """The program decodes ret before esr_ec. It ignores bit 31 of ret, the pending SError."""
    under_test = machine()
    vcpu = under_test.vcpu()

    def play() -> None:
        for times, ret, esr_ec in (
            (3, 0, 0),  # IRQ
            (5, 1, 0),  # SERROR
            (7, TRAP, 0),  # a trap with EC 0
            (11, TRAP, 0x3F),  # an EC without a name
            (13, 3, 0),  # IL
            (17, 0xBADCA11, 0),  # HYP_GONE
            (19, 0x80000002, SYS64),  # a trap, with a pending SError
            (23, 0x80000000, 0),  # an IRQ, with a pending SError
            (29, 0xFFFFFFFF80000002, WFX),  # a trap again, but sign-extended to 64 bits
            (31, 77, WFX),  # an unknown return code: the program must ignore esr_ec
        ):
            for _ in range(times):
                vcpu.arm_exit(1000, ret, esr_ec)
                vcpu.entry(1001)

    vcpu.call(play)
    assert exits(under_test.record(vcpu)) == {
        (Space.ARM64_RET, 0): 3 + 23,
        (Space.ARM64_RET, 1): 5,
        (Space.ARM64_RET, 3): 13,
        (Space.ARM64_RET, 0xBADCA11): 17,
        (Space.ARM64_RET, 77): 31,
        trap(0): 7,
        trap(0x3F): 11,
        trap(SYS64): 19,
        trap(WFX): 29,
    }


def test_x86_reasons_are_decoded(machine: Load) -> None:
    """The field `isa` selects VMX or SVM. The program keeps the flag bits, the reason -1, and vcpu_id."""
    under_test = machine("x86")
    codes = Counter(
        {
            (Space.VMX, 48): 101,
            (Space.VMX, 33): 3,
            (Space.VMX, 0x80000000 | 33): 5,  # FAILED_VMENTRY
            (Space.VMX, 85): 7,
            (Space.SVM, 0x7B): 103,
            (Space.SVM, 0x400): 11,
            (Space.SVM, 0x80000001): 13,
            (Space.SVM, 0xFFFFFFFF): 17,  # -1, invalid_guest_state
            (3, 5): 19,  # an unknown isa
        }
    )
    vcpu = under_test.vcpu("qemu-system-x86")

    def play() -> None:
        for (isa, reason), times in codes.items():
            for _ in range(times):
                vcpu.x86_exit(2000, isa, reason, vcpu_id=5)
                vcpu.entry(2300)

    vcpu.call(play)
    record = under_test.record(vcpu)
    assert exits(record) == codes
    assert record.vcpu_id == 5
    assert record.totals.guest_ns == 0  # each exit has an earlier time than the entry before it
    assert {sum_ns // times for (_, sum_ns), times in zip(durations(record).values(), exits(record).values())} == {300}


def test_every_exit_class_of_arm64_has_a_separate_cell(machine: Load) -> None:
    under_test = machine()
    vcpu = under_test.vcpu()

    def play() -> None:
        for esr_ec in range(64):
            for _ in range(esr_ec + 1):
                vcpu.arm_exit(5, TRAP, esr_ec)
                vcpu.entry(6)

    vcpu.call(play)
    assert exits(under_test.record(vcpu)) == {trap(esr_ec): esr_ec + 1 for esr_ec in range(64)}
    assert len(under_test.collector._slots.heads(1)) == 64  # each in a chain of its own, so each look-up is short


def test_equal_codes_of_two_spaces_have_separate_cells(machine: Load) -> None:
    """HLT of VMX and KVM_EXIT_TPR_ACCESS have the number 12, and their cells are in the same chain."""
    under_test = machine("x86")
    vcpu = under_test.vcpu()

    def play() -> None:
        for number in range(101):
            vcpu.x86_exit(1000 * number, Space.VMX, 12)
            if number < 31:
                vcpu.userspace_exit(1000 * number + 100, 12)
            vcpu.entry(1000 * number + 300)

    vcpu.call(play)
    record = under_test.record(vcpu)
    assert exits(record) == {(Space.VMX, 12): 101, (Space.USERSPACE, 12): 31}
    assert durations(record) == {
        (Space.VMX, 12): (histogram([300] * 101), 101 * 300),
        (Space.USERSPACE, 12): (histogram([300] * 31), 31 * 300),
    }
    assert len(under_test.collector._slots.heads(1)) == 1


def test_codes_that_differ_in_the_second_byte_share_no_chain(machine: Load) -> None:
    """A chain has room for eight cells. SVM has codes from 0x400 upwards beside those below 0x100."""
    under_test = machine("x86")
    vcpu = under_test.vcpu()

    def play() -> None:
        for number in range(17):
            for _ in range(number + 1):
                vcpu.x86_exit(5, Space.SVM, number << 8 | 1)
                vcpu.entry(6)

    vcpu.call(play)
    assert exits(under_test.record(vcpu)) == {(Space.SVM, number << 8 | 1): number + 1 for number in range(17)}
    assert set(under_test.collect().counters.values()) == {0}


def test_intervals_of_the_first_and_last_bucket_are_counted(machine: Load) -> None:
    under_test = machine()
    vcpu = under_test.vcpu()
    longest = 4096 * 10**9 + 1

    def play() -> None:
        now = 10
        for out_ns, times in ((0, 3), (119, 5), (longest - 1, 7), (longest, 11), (10**15, 13)):
            for _ in range(times):
                vcpu.arm_exit(now, TRAP, WFX)
                now += out_ns
                vcpu.entry(now)

    vcpu.call(play)
    record = under_test.record(vcpu)
    times = [119] * 5 + [longest - 1] * 7 + [longest] * 11 + [10**15] * 13
    assert durations(record) == {trap(WFX): (histogram([0] * 3 + times), sum(times))}
    counts = record.cells[0].counts()
    assert (counts[0], *counts[-2:]) == (3 + 5, 7, 11 + 13)


def test_an_entry_with_an_earlier_time_than_its_exit_has_an_empty_interval(machine: Load) -> None:
    """CLOCK_MONOTONIC of two CPUs may differ by a few ns: the interval is in the first bucket, and not in the last."""
    under_test = machine()
    vcpu = under_test.vcpu()

    def play() -> None:
        for _ in range(7):
            vcpu.arm_exit(2_003, TRAP, WFX)
            vcpu.entry(2_000)

    vcpu.call(play)
    assert durations(under_test.record(vcpu)) == {trap(WFX): (histogram([0] * 7), 0)}


def test_an_exit_with_an_earlier_time_than_its_entry_takes_no_guest_time_away(machine: Load) -> None:
    under_test = machine()
    vcpu = under_test.vcpu()
    vcpu.call(lambda: vcpu.entry(1_000))
    vcpu.call(lambda: vcpu.arm_exit(1_211, TRAP, WFX))
    for _ in range(7):
        vcpu.call(lambda: vcpu.entry(2_003))
        vcpu.call(lambda: vcpu.arm_exit(2_000, TRAP, WFX))
        assert under_test.record(vcpu).totals.guest_ns == 211
    vcpu.call(lambda: vcpu.entry(3_000))
    vcpu.call(lambda: vcpu.arm_exit(3_500, TRAP, WFX))
    assert under_test.record(vcpu).totals.guest_ns == 211 + 500


def test_an_interval_is_read_long_after_its_exit(machine: Load) -> None:
    """A vCPU halts, and several collections see its exit. Its next entry changes no count of exits."""
    under_test = machine()
    vcpu = under_test.vcpu()
    vcpu.call(lambda: vcpu.arm_exit(1_000, TRAP, WFX))
    for _ in range(3):
        assert durations(under_test.record(vcpu)) == {trap(WFX): (histogram([]), 0)}
    vcpu.call(lambda: vcpu.entry(8_009))
    assert durations(under_test.record(vcpu)) == {trap(WFX): (histogram([7_009]), 7_009)}
