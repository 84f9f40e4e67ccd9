"""The time of an exit is split as the scheduler accounts for it: waiting for a CPU, asleep, and in the VMM.

The threads really wait and sleep. So the figures are compared with those that /proc shows of the same thread.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from exporter.kernel import launcher, program, time_split
from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa import registry
from exporter.model.reason import Space
from exporter.model.records import NO_PARTS, TimeParts, VcpuRecord
from tests.support.machine import TRAP, Machine, Vcpu, durations, exits, trap

Load = Callable[..., Machine]

WFX, HVC64, DABT = 0x01, 0x16, 0x24
MMIO = (int(Space.USERSPACE), 6)
CPU = min(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def offsets() -> dict[str, int]:
    return {**registry.BY_NAME["arm64"].replay_defines, **time_split.offsets(KernelBtf(Path("/sys")))}


@pytest.fixture
def under_test(machine: Load, offsets: dict[str, int]) -> Machine:
    made = machine(time_split=True, defines=offsets)
    assert not made.loaded.unsplit_reason
    return made


class Scheduled(NamedTuple):
    """What /proc/thread-self/schedstat shows: times in ns."""

    ran: int
    waited: int
    runs: int


def scheduled() -> Scheduled:
    return Scheduled(*map(int, Path("/proc/thread-self/schedstat").read_text().split()))


def in_exits(vcpu: Vcpu, count: int, work: Callable[[], object], esr_ec: int = DABT) -> tuple[int, int]:
    """Do the work in `count` exits. Return the thread's wait for a CPU, and the duration of the work, in ns."""
    waited = took = 0

    def run() -> None:
        nonlocal waited, took
        vcpu.entry(time.monotonic_ns())
        before = scheduled().waited
        for _ in range(count):
            vcpu.arm_exit(time.monotonic_ns(), TRAP, esr_ec)
            begun = time.monotonic_ns()
            work()
            took += time.monotonic_ns() - begun
            vcpu.entry(time.monotonic_ns())
        waited = scheduled().waited - before

    vcpu.call(run)
    return waited, took


def spin(seconds: float) -> Callable[[], None]:
    """Return a function that keeps the CPU busy for `seconds`."""

    def work() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    return work


def nap() -> None:
    time.sleep(0.01)


def pin(vcpu: Vcpu) -> None:
    vcpu.call(lambda: os.sched_setaffinity(0, {CPU}))


@contextlib.contextmanager
def rival() -> Iterator[None]:
    """A process that keeps the same CPU busy."""
    code = f"import os; os.sched_setaffinity(0, {{{CPU}}}); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as busy:
        assert busy.stdout
        busy.stdout.readline()
        try:
            yield
        finally:
            busy.kill()


def parts(record: VcpuRecord) -> dict[tuple[int, int], TimeParts]:
    """Return the parts by reason; each part is at most the next larger one."""
    for cell in record.cells:
        assert 0 <= cell.parts.wait <= cell.parts.off <= cell.sum_ns
        assert 0 <= cell.parts.vmm <= cell.sum_ns
    return {(cell.space, cell.code): cell.parts for cell in record.cells}


def test_the_wait_beside_a_rival_is_what_the_scheduler_counts(under_test: Machine) -> None:
    vcpu = under_test.vcpu()
    pin(vcpu)
    with rival():
        waited, _ = in_exits(vcpu, 11, spin(0.05))
    record = under_test.record(vcpu)
    found = parts(record)[trap(DABT)]
    assert found.wait == pytest.approx(waited, rel=0.02)
    assert record.totals.wait_ns == found.wait


def test_the_sleep_is_what_the_thread_slept(under_test: Machine) -> None:
    vcpu = under_test.vcpu()
    waited, took = in_exits(vcpu, 101, nap)
    found = parts(under_test.record(vcpu))[trap(DABT)]
    assert found.sleep == pytest.approx(took - waited, rel=0.05)


def test_a_sleep_of_half_the_exit_is_measured(under_test: Machine) -> None:
    vcpu = under_test.vcpu()
    pin(vcpu)
    slept = 0

    def half() -> None:
        nonlocal slept
        spin(0.01)()
        before = time.monotonic_ns(), scheduled().waited
        nap()
        slept += time.monotonic_ns() - before[0] - (scheduled().waited - before[1])

    in_exits(vcpu, 53, half)
    found = parts(under_test.record(vcpu))[trap(DABT)]
    assert found.sleep == pytest.approx(slept, rel=0.05)


def test_a_sleep_on_one_cpu_that_ends_on_another_is_measured(under_test: Machine) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    assert len(cpus) > 1
    vcpu = under_test.vcpu()
    moves = iter(cpus * 101)

    def move() -> None:
        os.sched_setaffinity(0, {next(moves)})
        nap()

    waited, took = in_exits(vcpu, 101, move)
    found = parts(under_test.record(vcpu))[trap(DABT)]
    assert found.sleep == pytest.approx(took - waited, rel=0.05)


@contextlib.contextmanager
def _quota() -> Iterator[Path]:
    """A cgroup whose threads get a fifth of a CPU, of either version. Yields its folder."""
    root = Path("/sys/fs/cgroup")
    v2 = (root / "cgroup.controllers").exists()
    folder = (root if v2 else root / "cpu") / f"kvm-exit-exporter-test-{os.getpid()}"
    if v2:
        (root / "cgroup.subtree_control").write_text("+cpu")
    folder.mkdir()
    try:
        if v2:
            (folder / "cpu.max").write_text("10000 50000")
        else:
            (folder / "cpu.cfs_period_us").write_text("50000")
            (folder / "cpu.cfs_quota_us").write_text("10000")
        yield folder
    finally:
        folder.rmdir()


def test_a_throttled_thread_waits(machine: Load, offsets: dict[str, int]) -> None:
    """The scheduler counts the time without quota as waiting. The thread's process moves there: v2 has no threads."""
    with _quota() as folder:
        mover = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
Path({str(folder / "cgroup.procs")!r}).write_text(str(os.getpid()))
from exporter.kernel import time_split
from tests.kernel.test_split import DABT, in_exits, parts, spin, trap
from tests.support.machine import Machine
machine = Machine("arm64", time_split=True, defines={offsets!r})
vcpu = machine.vcpu()
waited, took = in_exits(vcpu, 7, spin(0.2))
found = parts(machine.record(vcpu))[trap(DABT)]
print(found.wait, waited)
"""
        done = subprocess.run([sys.executable, "-c", mover], capture_output=True, text=True, check=False, timeout=300)
    assert done.stderr == ""
    found, waited = map(int, done.stdout.split())
    assert found == pytest.approx(waited, rel=0.02)


def test_what_lies_between_two_exits_is_in_no_exit(under_test: Machine) -> None:
    """A sleep after the entry, and one before an exit that no entry follows: neither is in a completed exit."""
    vcpu = under_test.vcpu()

    def run() -> None:
        vcpu.arm_exit(time.monotonic_ns(), TRAP, HVC64)
        vcpu.entry(time.monotonic_ns())
        nap()
        vcpu.entry(time.monotonic_ns())  # unmatched: the exit was missed
        vcpu.arm_exit(time.monotonic_ns(), TRAP, HVC64)
        nap()
        vcpu.arm_exit(time.monotonic_ns(), TRAP, WFX)  # unmatched: the entry was missed
        spin(0.0001)()
        vcpu.entry(time.monotonic_ns())

    vcpu.call(run)
    record = under_test.record(vcpu)
    assert exits(record) == {trap(HVC64): 2, trap(WFX): 1}
    assert [cell.parts.sleep for cell in record.cells] == [0, 0]


def test_the_first_exit_of_a_thread_is_split(under_test: Machine) -> None:
    vcpu = under_test.vcpu()
    took = 0

    def run() -> None:
        nonlocal took
        vcpu.arm_exit(time.monotonic_ns(), TRAP, DABT)
        begun = time.monotonic_ns()
        nap()
        took = time.monotonic_ns() - begun
        vcpu.entry(time.monotonic_ns())

    vcpu.call(run)
    assert parts(under_test.record(vcpu))[trap(DABT)].off == pytest.approx(took, rel=0.05)


def test_the_vmm_has_what_comes_after_its_first_return(under_test: Machine) -> None:
    vcpu = under_test.vcpu()

    def run() -> None:
        for number in range(1, 102):
            now = number * 10**6
            vcpu.arm_exit(now, TRAP, DABT)
            vcpu.userspace_exit(now + 503, MMIO[1])
            vcpu.userspace_exit(now + 7919, 10, -4)  # the next KVM_RUN returns before it enters
            vcpu.entry(now + 10007)

    vcpu.call(run)
    record = under_test.record(vcpu)
    found = {reason: part.vmm for reason, part in parts(record).items()}
    assert found == {trap(DABT): 0, MMIO: 101 * (10007 - 503), (int(Space.USERSPACE_ERRNO), 4): 0}
    assert {sum_ns for _, sum_ns in durations(record).values()} == {101 * 10007, 0}


def test_sleeps_before_and_after_the_return_to_the_vmm(under_test: Machine) -> None:
    """The exit has both. The return to the VMM has the second one."""
    vcpu = under_test.vcpu()
    kernel = vmm = 0

    def run() -> None:
        nonlocal kernel, vmm
        for _ in range(31):
            vcpu.arm_exit(time.monotonic_ns(), TRAP, DABT)
            begun = time.monotonic_ns()
            nap()
            out = time.monotonic_ns()
            vcpu.userspace_exit(out, MMIO[1])
            time.sleep(0.017)
            back = time.monotonic_ns()
            vcpu.entry(back)
            kernel, vmm = kernel + out - begun, vmm + back - out

    vcpu.call(run)
    found = parts(under_test.record(vcpu))
    assert found[MMIO].vmm == vmm
    assert found[MMIO].off == pytest.approx(vmm, rel=0.05)
    assert found[trap(DABT)].off == pytest.approx(kernel + vmm, rel=0.05)
    assert found[trap(DABT)].off - found[MMIO].off == pytest.approx(kernel, rel=0.05)


def test_an_entry_that_failed_has_its_time_once(under_test: Machine) -> None:
    vcpu = under_test.vcpu()

    def run() -> None:
        vcpu.entry(10**6)
        vcpu.userspace_exit(10**6 + 101, 9)  # KVM_EXIT_FAIL_ENTRY
        vcpu.entry(10**6 + 101 + 2011)

    vcpu.call(run)
    assert parts(under_test.record(vcpu)) == {(int(Space.USERSPACE), 9): TimeParts(0, 0, 2011)}


def test_an_exit_that_is_too_short_to_leave_the_cpu_is_not_looked_at(under_test: Machine) -> None:
    """1,999 ns by the events' own time: the sleep in between is nobody's."""
    vcpu = under_test.vcpu()

    def run() -> None:
        vcpu.arm_exit(10**6, TRAP, DABT)
        nap()
        vcpu.entry(10**6 + 1999)

    vcpu.call(run)
    assert parts(under_test.record(vcpu)) == {trap(DABT): NO_PARTS}


def test_no_part_is_longer_than_its_interval(under_test: Machine) -> None:
    """The events' own time says 2,003 ns, and the thread slept for milliseconds."""
    vcpu = under_test.vcpu()

    def run() -> None:
        vcpu.arm_exit(10**6, TRAP, DABT)
        nap()
        vcpu.userspace_exit(10**6 + 2003, MMIO[1])
        nap()
        vcpu.entry(10**6 + 2003 + 3001)

    vcpu.call(run)
    found = parts(under_test.record(vcpu))
    assert (found[trap(DABT)].off, found[MMIO].off, found[MMIO].vmm) == (2003 + 3001, 3001, 3001)


def test_counts_and_durations_are_those_without_the_split(machine: Load, under_test: Machine) -> None:
    found = []
    for each in (under_test, machine()):
        vcpu = each.vcpu()

        def run(vcpu: Vcpu = vcpu) -> None:
            now = 0
            for number in range(1009):
                vcpu.arm_exit(now := now + 997, TRAP, (WFX, HVC64, DABT)[number % 3])
                if number % 5 == 0:
                    vcpu.userspace_exit(now := now + 211, MMIO[1])
                vcpu.entry(now := now + 1 + number * number % 10007)
            time.sleep(0)

        vcpu.call(run)
        record = each.record(vcpu)
        found.append((exits(record), durations(record), record.totals.guest_ns))
    assert found[0] == found[1]


@pytest.mark.parametrize("macro", sorted(time_split.MACROS))
def test_a_wrong_offset_is_refused(macro: str, offsets: dict[str, int]) -> None:
    wrong = {**offsets, macro: offsets[macro] + 8}
    request = program.LoadRequest(
        front="arm64", defines=wrong, slots=4, cells=4, attach=False, time_split=True, clock_in_context=True
    )
    loaded = launcher.load(request)
    try:
        assert loaded.unsplit_reason
        assert set(loaded.programs) == set(program.events("counting", "arm64"))
    finally:
        loaded.close()


def test_without_its_offsets_nothing_is_split(machine: Load) -> None:
    unsplit = machine()
    vcpu = unsplit.vcpu()
    in_exits(vcpu, 3, nap)
    record = unsplit.record(vcpu)
    assert unsplit.loaded.unsplit_reason == "it is not asked for"
    assert parts(record) == {trap(DABT): NO_PARTS}
    assert record.totals.wait_ns is None
