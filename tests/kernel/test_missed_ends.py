"""The kernel skips the end of a thread. No later thread is counted under the dead VM's name, and no phantom stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.kernel import syscall
from exporter.model.records import RunStats
from tests.support.machine import TRAP, Machine, Vcpu, durations, exits, histogram, trap

Load = Callable[..., Machine]

HVC64, SYS64 = 0x16, 0x18


def _rounds(vcpu: Vcpu, times: int, esr_ec: int) -> None:
    def play() -> None:
        start = time.monotonic_ns()
        for number in range(times):
            vcpu.arm_exit(start + 100 * number, TRAP, esr_ec)
            vcpu.entry(start + 100 * number + 50)

    vcpu.call(play)


_SUCCESSOR = """
import os, struct, sys
from exporter.kernel.syscall import TestRun
os.sched_setaffinity(0, {int(sys.argv[3])})
leave, enter = TestRun(int(sys.argv[1])), TestRun(int(sys.argv[2]))
for _ in range(53):
    leave(struct.pack("=11QQ", 2, 0x18, *[0] * 9, 10**15))
    enter(struct.pack("=11QQ", *[0] * 11, 10**15 + 70))
"""


def _run_with_pid(pid: int, cpu: int, loaded: dict[str, int]) -> None:
    """Run the successor as a process with this pid, which must be free. Other processes may take it in between."""
    programs = [loaded["kvm_exit"], loaded["kvm_entry"]]
    gate = f"import sys; sys.stdin.read(1) == 'y' or sys.exit(3)\n{_SUCCESSOR}"
    for _ in range(1009):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        child = subprocess.Popen(
            [sys.executable, "-c", gate, *map(str, (*programs, cpu))], pass_fds=programs, stdin=subprocess.PIPE
        )
        child.communicate(b"y" if child.pid == pid else b"n")
        if child.pid == pid:
            assert child.returncode == 0
            return
    raise AssertionError(f"the pid {pid} was never free")


@pytest.mark.parametrize("cached", [True, False], ids=["in the CPU's cache", "not in the CPU's cache"])
def test_a_later_process_with_the_same_tid_is_another_vm(machine: Load, cached: bool) -> None:
    """The program does not see the end of the first thread. Its tid becomes the pid of another process.

    Both run on the same CPU. Its cache still has the slot of the first thread, or that of another vCPU.
    """
    under_test = machine()
    cpu = min(os.sched_getaffinity(0))
    vcpu, other = under_test.vcpu(), under_test.vcpu()
    for each in (vcpu, other):
        each.call(lambda: os.sched_setaffinity(0, {cpu}))
    _rounds(vcpu, 101, HVC64)
    if not cached:
        _rounds(other, 3, HVC64)
    vcpu.end()
    while Path(f"/proc/self/task/{vcpu.tid}").exists():
        pass
    _run_with_pid(vcpu.tid, cpu, dict(under_test.loaded.programs))

    snapshot = under_test.collect()
    assert sorted(record.key.tid for record in snapshot.vcpus) == sorted([vcpu.tid] * 2 + [other.tid] * (not cached))
    records = {record.key.pid: record for record in snapshot.vcpus if record.key.tid == vcpu.tid}
    first, second = records[os.getpid()], records[vcpu.tid]
    assert (first.key.tid, second.key.tid) == (vcpu.tid, vcpu.tid)
    assert exits(first) == {trap(HVC64): 101}
    assert durations(first) == {trap(HVC64): (histogram([50] * 101), 101 * 50)}
    assert exits(second) == {trap(SYS64): 53}
    assert durations(second) == {trap(SYS64): (histogram([70] * 53), 53 * 70)}
    assert (first.alive, second.alive) == (False, True)
    assert set(under_test.collect().counters.values()) == {0}


@pytest.fixture
def missed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine, str], None]:
    """Return a function after which the kernel has skipped one more run of a program."""
    misses: dict[int, int] = {}
    monkeypatch.setattr(syscall, "program_stats", lambda fd: RunStats(0.0, 0, misses.get(fd, 0)))

    def miss(under_test: Machine, program: str) -> None:
        fd = under_test.loaded.programs[program]
        misses[fd] = misses.get(fd, 0) + 1

    return miss


@pytest.mark.parametrize("program", ["sched_process_exit", "sched_process_exec"])
def test_a_missed_end_is_found_in_proc(machine: Load, missed: Callable[[Machine, str], None], program: str) -> None:
    under_test = machine(slots=2, cells=2)
    gone, stays = under_test.vcpu(), under_test.vcpu()
    _rounds(gone, 101, HVC64)
    _rounds(stays, 31, SYS64)
    gone.end()
    while Path(f"/proc/self/task/{gone.tid}").exists():
        pass
    under_test.now = time.monotonic_ns()
    snapshot = under_test.collect()
    assert (snapshot.slots_in_use, snapshot.missed_ends) == (2, 0)

    missed(under_test, program)
    assert under_test.collect().missed_ends == 1
    snapshot = under_test.collect()
    assert (snapshot.slots_in_use, snapshot.cells_in_use, snapshot.missed_ends) == (1, 1, 1)
    assert not under_test.record(gone).alive
    assert exits(under_test.record(gone)) == {trap(HVC64): 101}
    assert under_test.record(stays).alive
    third = under_test.vcpu()
    _rounds(third, 7, HVC64)  # the slot and the cell are free again
    assert exits(under_test.record(third)) == {trap(HVC64): 7}


def test_proc_is_read_only_after_a_missed_end(
    machine: Load, missed: Callable[[Machine, str], None], tmp_path: Path
) -> None:
    """A tree without processes would end every vCPU."""
    under_test = machine()
    under_test.collector._proc = _empty_proc(tmp_path)
    vcpu = under_test.vcpu()
    _rounds(vcpu, 3, HVC64)
    missed(under_test, "kvm_exit")
    for _ in range(3):
        assert under_test.record(vcpu).alive
    missed(under_test, "sched_process_exit")
    under_test.collect()
    assert not under_test.record(vcpu).alive
    following = under_test.vcpu()
    _rounds(following, 5, HVC64)
    for _ in range(3):  # the same number of misses as before
        assert under_test.record(following).alive


def test_a_tid_whose_slot_was_freed_reaches_no_other_vcpu(
    machine: Load, missed: Callable[[Machine, str], None], tmp_path: Path
) -> None:
    """The hash still has the slot of a thread whose end was found in /proc. Another vCPU has this slot now."""
    under_test = machine(slots=2, cells=4)
    under_test.collector._proc = _empty_proc(tmp_path)
    first, second = under_test.vcpu(), under_test.vcpu()
    _rounds(first, 5, HVC64)
    missed(under_test, "sched_process_exit")
    for _ in range(2):
        under_test.collect()
    _rounds(second, 7, SYS64)
    _rounds(first, 11, HVC64)  # a later thread with the same tid
    by_tid = {(record.key.tid, record.alive): exits(record) for record in under_test.collect().vcpus}
    assert by_tid == {
        (first.tid, False): {trap(HVC64): 5},
        (second.tid, True): {trap(SYS64): 7},
        (first.tid, True): {trap(HVC64): 11},
    }

    missed(under_test, "sched_process_exit")
    for _ in range(2):
        under_test.collect()
    _rounds(second, 13, SYS64)
    first.call(lambda: first.dies(1))  # ends without an event before, so that its entry is the old one
    alive = {record.key.tid: exits(record) for record in under_test.collect().vcpus if record.alive}
    assert alive == {second.tid: {trap(SYS64): 13}}


def test_a_tid_whose_slot_was_freed_ends_no_wait_for_a_reason(
    machine: Load, missed: Callable[[Machine, str], None], tmp_path: Path
) -> None:
    """openEuler: the vCPU that has this slot now is between kvm_exit and kvm_trap_enter."""
    under_test = machine("arm64_openeuler", slots=2, cells=4)
    under_test.collector._proc = _empty_proc(tmp_path)
    first, second = under_test.vcpu(), under_test.vcpu()
    first.call(lambda: first.entry(1_009))
    missed(under_test, "sched_process_exit")
    for _ in range(2):
        under_test.collect()
    second.call(lambda: second.euler_exit(2_003, TRAP))
    first.call(lambda: first.entry(2_011))  # a later thread with the same tid
    second.call(lambda: second.trap_enter(2_017, HVC64))
    second.call(lambda: second.entry(2_503))
    record = under_test.record(second)
    assert (record.alive, exits(record)) == (True, {trap(HVC64): 1})
    assert durations(record) == {trap(HVC64): (histogram([500]), 500)}


def test_a_thread_without_room_in_the_hash_leaves_its_slot_free(
    machine: Load, missed: Callable[[Machine, str], None], tmp_path: Path
) -> None:
    """The hash has room for twice as many tids as there are slots. The entries of missed ends fill it."""
    under_test = machine(slots=1, cells=1)
    under_test.collector._proc = _empty_proc(tmp_path)
    first, second, third = under_test.vcpu(), under_test.vcpu(), under_test.vcpu()
    for vcpu, times in ((first, 5), (second, 7)):
        _rounds(vcpu, times, HVC64)
        missed(under_test, "sched_process_exit")
        for _ in range(2):
            under_test.collect()
        assert exits(under_test.record(vcpu)) == {trap(HVC64): times}
    _rounds(third, 11, HVC64)
    assert under_test.records(third) == []
    assert under_test.collect().counters["dropped_no_slot"] == 11
    first.call(lambda: first.dies(1))  # a later thread with the first tid ends
    _rounds(third, 13, HVC64)
    assert exits(under_test.record(third)) == {trap(HVC64): 13}
    assert under_test.collect().counters["dropped_no_slot"] == 11


def _empty_proc(root: Path) -> Path:
    """Return a tree like /proc of this host without any process but the first."""
    (root / "self/ns").mkdir(parents=True)
    (root / "self/ns/pid").symlink_to(os.readlink("/proc/self/ns/pid"))
    (root / "1").mkdir()
    (root / "1/stat").write_text(Path("/proc/1/stat").read_text())
    return root
