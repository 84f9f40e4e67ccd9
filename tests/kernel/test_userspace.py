"""Returns to the VMM are counted by KVM_EXIT_* reason. The duration of an exit is counted for its first return."""

from __future__ import annotations

from collections.abc import Callable

from exporter.model.reason import Space
from tests.support.machine import TRAP, Machine, durations, exits, histogram, trap

Load = Callable[..., Machine]

WFX, DABT = 0x01, 0x24
MMIO, IO, FAIL_ENTRY, INTR, SYSTEM_EVENT = 6, 2, 9, 10, 24
EINTR, EFAULT = 4, 14


def test_every_return_is_counted_and_the_first_one_gets_the_interval(machine: Load) -> None:
    under_test = machine()
    vcpu = under_test.vcpu()

    def play() -> None:
        # As on real hosts, QEMU's first KVM_RUN is interrupted before guest entry. So no exit precedes this return.
        vcpu.userspace_exit(10, INTR, -EINTR)
        now = 1000
        vcpu.entry(now)
        for number in range(101):  # returned to the VMM, then entered the guest again
            vcpu.arm_exit(now + 10, TRAP, DABT)
            vcpu.userspace_exit(now + 500, MMIO)
            now += 10 + 2000 + number
            vcpu.entry(now)
        for _ in range(53):  # handled in the kernel
            vcpu.arm_exit(now + 10, TRAP, DABT)
            now += 10 + 300
            vcpu.entry(now)
        for _ in range(7):  # returned to the VMM; then KVM_RUN was interrupted twice
            vcpu.arm_exit(now + 10, TRAP, DABT)
            vcpu.userspace_exit(now + 500, IO)
            vcpu.userspace_exit(now + 600, IO, -EINTR)
            vcpu.userspace_exit(now + 700, IO, -EINTR)
            now += 10 + 100_000
            vcpu.entry(now)
        vcpu.arm_exit(now + 10, TRAP, DABT)  # an exit that ends the VM
        vcpu.userspace_exit(now + 500, SYSTEM_EVENT)
        vcpu.userspace_exit(now + 500, SYSTEM_EVENT, -EFAULT)

    before = under_test.collect().counters["unmatched_userspace_exit"]
    vcpu.call(play)
    under_test.now = 10**9
    record = under_test.record(vcpu)
    mmio, io, restart = (Space.USERSPACE, MMIO), (Space.USERSPACE, IO), (Space.USERSPACE_ERRNO, EINTR)
    event, fault = (Space.USERSPACE, SYSTEM_EVENT), (Space.USERSPACE_ERRNO, EFAULT)
    assert exits(record) == {
        trap(DABT): 101 + 53 + 7 + 1,
        mmio: 101,
        io: 7,
        restart: 1 + 14,
        event: 1,
        fault: 1,
    }
    out = [2000 + number for number in range(101)]
    none = histogram([])
    assert durations(record) == {
        trap(DABT): (histogram([*out, *[300] * 53, *[100_000] * 7]), sum(out) + 300 * 53 + 100_000 * 7),
        mmio: (histogram(out), sum(out)),
        io: (histogram([100_000] * 7), 700_000),
        restart: (none, 0),  # their intervals are counted for KVM_EXIT_IO
        event: (none, 0),
        fault: (none, 0),
    }
    assert under_test.collect().counters["unmatched_userspace_exit"] - before == 1


def test_an_interrupted_sleep_is_in_the_interval_of_restart(machine: Load) -> None:
    """A signal interrupts KVM_RUN while the vCPU sleeps; the next KVM_RUN lets it sleep on. docs/metrics.md says so."""
    under_test = machine()
    vcpu = under_test.vcpu()

    def play() -> None:
        for number in range(11):
            vcpu.arm_exit(10**6 * number + 10, TRAP, WFX)
            vcpu.userspace_exit(10**6 * number + 300_010, INTR, -EINTR)
            vcpu.entry(10**6 * number + 900_010)

    vcpu.call(play)
    slept = (histogram([900_000] * 11), 11 * 900_000)
    assert durations(under_test.record(vcpu)) == {trap(WFX): slept, (Space.USERSPACE_ERRNO, EINTR): slept}


def test_unmatched_events_are_counted_and_give_no_interval(machine: Load) -> None:
    under_test = machine()
    vcpu = under_test.vcpu()

    def play() -> None:
        for _ in range(7):
            vcpu.userspace_exit(50, MMIO)
        # the vCPU may have been in the guest when the program was attached, so this exit counts as matched
        vcpu.arm_exit(100, 0)
        for _ in range(3):
            vcpu.arm_exit(200, 0)
        vcpu.entry(1_200)
        for _ in range(5):
            vcpu.entry(2_000)
        vcpu.arm_exit(2_700, 0)
        vcpu.entry(2_800)

    vcpu.call(play)
    under_test.now = 2_800
    record = under_test.record(vcpu)
    assert exits(record)[(Space.ARM64_RET, 0)] == 5
    assert durations(record)[(Space.ARM64_RET, 0)] == (histogram([1000, 100]), 1100)
    assert exits(record)[(Space.USERSPACE, MMIO)] == 7
    assert record.totals.guest_ns == 700
    counters = under_test.collect().counters
    assert {name: value for name, value in counters.items() if value} == {
        "unmatched_exit": 3,
        "unmatched_entry": 5,
        "unmatched_userspace_exit": 7,
    }


def test_an_entry_that_fails_ends_with_the_return_to_the_vmm(machine: Load) -> None:
    """The CPU refuses entries: KVM traces them, and then KVM_RUN returns with KVM_EXIT_FAIL_ENTRY and without an exit.

    The vCPU is then out of its guest, and its guest time stands still. The return is in progress as an exit would be.
    """
    under_test = machine()
    vcpu = under_test.vcpu()

    def play() -> None:
        vcpu.entry(1_000)
        vcpu.arm_exit(5_000, TRAP, DABT)
        for number in range(11):
            vcpu.entry(10_000 + 1_000 * number)
            vcpu.userspace_exit(10_007 + 1_000 * number, FAIL_ENTRY)
            vcpu.userspace_exit(10_011 + 1_000 * number, INTR, -EINTR)

    vcpu.call(play)
    under_test.now = 3_600 * 10**9
    record = under_test.record(vcpu)
    assert record.totals.guest_ns == 4_000 + 11 * 7
    assert record.in_progress == (Space.USERSPACE, FAIL_ENTRY, 3_600 * 10**9 - 20_007)
    assert exits(record) == {
        trap(DABT): 1,
        (Space.USERSPACE, FAIL_ENTRY): 11,
        (Space.USERSPACE_ERRNO, EINTR): 11,
    }
    assert durations(record) == {
        trap(DABT): (histogram([5_000]), 5_000),
        (Space.USERSPACE, FAIL_ENTRY): (histogram([993] * 10), 993 * 10),
        (Space.USERSPACE_ERRNO, EINTR): (histogram([]), 0),
    }
    counters = under_test.collect().counters
    assert {name: value for name, value in counters.items() if value} == {"unmatched_entry": 11}

    vcpu.call(lambda: vcpu.entry(4_000 * 10**9))  # the VMM has mended the state of its vCPU
    vcpu.call(lambda: vcpu.arm_exit(4_000 * 10**9 + 500, TRAP, DABT))
    vcpu.call(lambda: vcpu.userspace_exit(4_000 * 10**9 + 600, MMIO))
    vcpu.call(lambda: vcpu.entry(4_000 * 10**9 + 800))
    vcpu.call(lambda: vcpu.arm_exit(4_000 * 10**9 + 900, TRAP, DABT))
    record = under_test.record(vcpu)
    assert record.totals.guest_ns == 4_000 + 11 * 7 + 500 + 100
    assert durations(record)[Space.USERSPACE, MMIO] == (histogram([300]), 300)
    assert under_test.collect().counters == counters


def test_exit_age_and_guest_time_grow_with_the_clock(machine: Load) -> None:
    """While a vCPU is out of the guest, the age of its exit grows. While it is in the guest, its guest time grows."""
    under_test = machine()
    vcpu = under_test.vcpu()
    vcpu.call(lambda: vcpu.entry(1_000))
    vcpu.call(lambda: vcpu.arm_exit(5_000, TRAP, DABT))
    under_test.now = 5_000 + 7_000_000
    record = under_test.record(vcpu)
    assert record.in_progress
    assert (record.in_progress.space, record.in_progress.code) == trap(DABT)
    assert record.in_progress.age_ns == 7_000_000
    assert record.totals.guest_ns == 4_000

    vcpu.call(lambda: vcpu.entry(8_000_000))
    under_test.now = 9_000_000
    assert under_test.record(vcpu).in_progress is None
    assert under_test.record(vcpu).totals.guest_ns == 4_000 + 1_000_000

    # The time of this exit is earlier than the last reading. The counter must not fall.
    vcpu.call(lambda: vcpu.arm_exit(8_999_000, TRAP, DABT))
    assert under_test.record(vcpu).totals.guest_ns == 4_000 + 1_000_000
    vcpu.call(lambda: vcpu.entry(9_100_000))
    vcpu.call(lambda: vcpu.arm_exit(9_200_000, TRAP, DABT))
    under_test.now = 9_200_000
    assert under_test.record(vcpu).totals.guest_ns == 4_000 + 999_000 + 100_000


def test_a_return_that_was_dropped_leaves_its_interval_to_no_other(machine: Load) -> None:
    """There is no cell for the first return of an exit. The interval is not the second one's."""
    under_test = machine(cells=2)
    vcpu = under_test.vcpu()
    vcpu.call(lambda: vcpu.arm_exit(10, TRAP, DABT))
    vcpu.call(lambda: vcpu.userspace_exit(20, IO, -EINTR))
    vcpu.call(lambda: vcpu.entry(30))

    def play() -> None:
        for number in range(7):
            vcpu.arm_exit(1000 * number, TRAP, DABT)
            vcpu.userspace_exit(1000 * number + 100, MMIO)
            vcpu.userspace_exit(1000 * number + 200, MMIO, -EINTR)
            vcpu.entry(1000 * number + 300)
        for number in range(7, 7 + 11):  # the entry fails
            vcpu.userspace_exit(1000 * number + 100, FAIL_ENTRY)
            vcpu.userspace_exit(1000 * number + 200, MMIO, -EINTR)
            vcpu.entry(1000 * number + 300)

    vcpu.call(play)
    record = under_test.record(vcpu)
    restart = (Space.USERSPACE_ERRNO, EINTR)
    assert exits(record) == {trap(DABT): 1 + 7, restart: 1 + 7 + 11}
    assert durations(record) == {
        trap(DABT): (histogram([20] + [300] * 7), 20 + 300 * 7),
        restart: (histogram([20]), 20),
    }
    counters = under_test.collect().counters
    assert (counters["dropped_userspace_no_cell"], counters["unmatched_entry"]) == (7 + 11, 11)
