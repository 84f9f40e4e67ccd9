"""Threads end: their last values are served, their slots and cells become free, and their tids are used again."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.collect import collector as snapshot
from exporter.collect.collector import Collector
from exporter.collect.maps import ArrayMap
from exporter.config.options import Level
from exporter.kernel import program, syscall
from exporter.metrics.families import CounterFamily
from exporter.metrics.kvm import Metrics
from exporter.model.reason import Space
from exporter.model.vm import Vcpu as Identity
from exporter.model.vm import Vm
from exporter.naming.reasons import ReasonNames
from tests.support.machine import TRAP, Machine, Vcpu, durations, exits, histogram, trap
from tests.support.raw_tracepoint import attach_raw

Load = Callable[..., Machine]

HVC64, SYS64 = 0x16, 0x18


def _rounds(vcpu: Vcpu, times: int, esr_ec: int, start: int = 1000) -> Callable[[], None]:
    def play() -> None:
        for number in range(times):
            vcpu.arm_exit(start + 100 * number, TRAP, esr_ec)
            vcpu.entry(start + 100 * number + 50)

    return play


def test_last_values_stay_until_linger_is_over(machine: Load) -> None:
    under_test = machine(linger_ns=1000)
    vcpu = under_test.vcpu("CPU 7/KVM")
    vcpu.call(_rounds(vcpu, 101, HVC64))
    vcpu.call(lambda: vcpu.dies(20_000))
    under_test.now = 20_000
    record = under_test.record(vcpu)
    assert not record.alive
    assert record.comm == b"CPU 7/KVM"
    assert exits(record) == {trap(HVC64): 101}
    assert durations(record) == {trap(HVC64): (histogram([50] * 101), 101 * 50)}
    assert record.totals.guest_ns == 100 * 50  # the time between the last entry and the thread's end is not counted
    assert record.in_progress is None
    snapshot = under_test.collect()
    assert (snapshot.slots_in_use, snapshot.cells_in_use) == (0, 0)

    under_test.now = 20_999
    assert under_test.record(vcpu) == record
    under_test.now = 21_000
    snapshot = under_test.collect()
    assert snapshot.vcpus == []
    assert snapshot.vanished == [record]
    assert under_test.collect().vanished == []


def test_a_reused_tid_has_two_records_and_one_series(machine: Load) -> None:
    """Two threads have the same (pid, tid). The series still has the sum after the first thread's linger is over."""
    under_test = machine(linger_ns=1000)
    metrics = Metrics(ReasonNames().lookup, Level())
    identity = Identity(Vm(pid=os.getpid(), name="web-1", uuid="", vmm="qemu"), "0")
    vcpu = under_test.vcpu()
    vcpu.call(_rounds(vcpu, 101, HVC64))
    vcpu.call(lambda: vcpu.dies(50_000))
    vcpu.call(_rounds(vcpu, 31, HVC64, start=60_000))
    vcpu.call(_rounds(vcpu, 17, SYS64, start=70_000))

    def served(now: int) -> dict[str, int]:
        under_test.now = now
        snapshot = under_test.collect()
        vcpus = [(record, identity) for record in snapshot.vcpus]
        metrics.update(vcpus, [record.key for record in snapshot.vanished])
        exits_total = metrics.families(vcpus)[0]
        assert isinstance(exits_total, CounterFamily)
        return {series.labels[4]: series.total().exits for series in exits_total.series}

    both = {"EC_HVC64": 101 + 31, "EC_SYS64": 17}
    assert served(80_000) == both
    assert len(under_test.records(vcpu)) == 2
    assert served(81_000) == both
    assert len(under_test.records(vcpu)) == 1
    vcpu.call(lambda: vcpu.dies(10**9))
    assert served(10**9) == both
    assert served(10**9 + 999) == both
    assert served(10**9 + 1000) == {}


def test_an_outdated_cpu_cache_does_not_reach_a_reused_slot(machine: Load) -> None:
    """A second thread gets the slot of an ended thread, while a CPU's cache still points to that slot."""
    under_test = machine(slots=1)
    cpu = min(os.sched_getaffinity(0))
    first, second = under_test.vcpu(), under_test.vcpu()
    for vcpu in (first, second):
        vcpu.call(lambda: os.sched_setaffinity(0, {cpu}))
    first.call(_rounds(first, 7, HVC64))
    first.call(lambda: first.dies(9_000))
    first.call(_rounds(first, 11, HVC64))  # the thread gets no slot, because its old slot is not free yet
    assert exits(under_test.record(first)) == {trap(HVC64): 7}
    second.call(_rounds(second, 13, SYS64))
    first.call(_rounds(first, 5, HVC64))
    assert exits(under_test.record(second)) == {trap(SYS64): 13}
    assert exits(under_test.record(first)) == {trap(HVC64): 7}
    assert under_test.collect().counters["dropped_no_slot"] == 11 + 5


def test_exits_without_a_slot_are_counted_as_dropped(machine: Load) -> None:
    under_test = machine(slots=3)
    vcpus = [under_test.vcpu() for _ in range(5)]
    for vcpu in vcpus:
        vcpu.call(_rounds(vcpu, 29, HVC64))
    vcpus[3].call(lambda: vcpus[3].userspace_exit(5, 6))
    snapshot = under_test.collect()
    assert {record.key.tid for record in snapshot.vcpus} == {vcpu.tid for vcpu in vcpus[:3]}
    assert snapshot.slots == snapshot.slots_in_use == 3
    assert {name: value for name, value in snapshot.counters.items() if value} == {
        "dropped_no_slot": 2 * 29,
        "dropped_userspace_no_slot": 1,
    }
    for vcpu in vcpus[:2]:
        vcpu.call(lambda: vcpu.dies(10_000))
    under_test.collect()
    for vcpu in vcpus[3:]:
        vcpu.call(_rounds(vcpu, 31, SYS64))
        assert exits(under_test.record(vcpu)) == {trap(SYS64): 31}
    assert exits(under_test.record(vcpus[0])) == {trap(HVC64): 29}
    assert under_test.collect().counters["dropped_no_slot"] == 2 * 29


def test_exits_without_a_cell_are_counted_as_dropped(machine: Load) -> None:
    under_test = machine(cells=5)
    vcpu, other = under_test.vcpu(), under_test.vcpu()
    for esr_ec in range(8):
        vcpu.call(_rounds(vcpu, 10 + esr_ec, esr_ec))
    vcpu.call(lambda: vcpu.arm_exit(1, TRAP, 63))
    vcpu.call(lambda: vcpu.userspace_exit(2, 6))
    vcpu.call(lambda: vcpu.entry(3))
    record = under_test.record(vcpu)
    assert exits(record) == {trap(esr_ec): 10 + esr_ec for esr_ec in range(5)}
    snapshot = under_test.collect()
    assert snapshot.cells == snapshot.cells_in_use == 5
    assert {name: value for name, value in snapshot.counters.items() if value} == {
        "dropped_no_cell": 15 + 16 + 17 + 1,
        "dropped_userspace_no_cell": 1,
    }
    vcpu.call(lambda: vcpu.dies(10_000))
    assert exits(under_test.record(vcpu)) == {trap(esr_ec): 10 + esr_ec for esr_ec in range(5)}
    other.call(_rounds(other, 37, 9))
    assert exits(under_test.record(other)) == {trap(9): 37}
    assert durations(under_test.record(other)) == {trap(9): (histogram([50] * 37), 37 * 50)}


def test_a_reused_cell_with_equal_counts_is_read_again(machine: Load) -> None:
    """Several threads use the same slot and cell one after the other, with equal counts.

    Each thread gets its own record.
    """
    under_test = machine(slots=1, cells=1)
    for number in range(5):
        vcpu = under_test.vcpu(f"CPU {number}/KVM")
        vcpu.call(_rounds(vcpu, 3, HVC64))
        assert exits(under_test.record(vcpu)) == {trap(HVC64): 3}
        vcpu.call(lambda: vcpu.dies(10_000))
        under_test.collect()
        assert exits(under_test.record(vcpu)) == {trap(HVC64): 3}


def test_more_of_the_arrays_is_mapped_as_they_fill(machine: Load) -> None:
    """There are more vCPUs and reasons than are mapped at the start.

    Some vCPUs start and end between two collections.
    """
    under_test = machine(slots=2003, cells=4001)
    vcpu = under_test.vcpu()
    for life in range(1009):
        vcpu.call(_rounds(vcpu, 1 + life % 7, HVC64, start=1000 * life))
        vcpu.call(_rounds(vcpu, 2, 0x30 + life % 8, start=1000 * life + 500))
        if life % 401 == 0:
            under_test.collect()
        if life < 1008:
            vcpu.call(lambda: vcpu.dies(1000 * life + 999))
    records = sorted(under_test.records(vcpu), key=lambda record: record.key.born_ns)
    assert [exits(record) for record in records] == [
        {trap(HVC64): 1 + life % 7, trap(0x30 + life % 8): 2} for life in range(1009)
    ]
    assert set(under_test.collect().counters.values()) == {0}


def test_exits_beyond_a_full_chain_are_counted_as_dropped(machine: Load) -> None:
    """Nine codes have the same hash. Exits of the ninth code are counted as dropped_chain_full."""
    under_test = machine()
    vcpu = under_test.vcpu()
    codes = [1 + number * 0x10000 for number in range(9)]
    for code in codes:
        vcpu.call(_rounds(vcpu, 13, code))
    assert exits(under_test.record(vcpu)) == {trap(code): 13 for code in codes[:8]}
    counters = under_test.collect().counters
    assert {name: value for name, value in counters.items() if value} == {"dropped_chain_full": 13}


def test_returns_beyond_a_full_chain_are_counted_as_dropped(machine: Load) -> None:
    under_test = machine()
    vcpu = under_test.vcpu()
    reasons = [6 + number * 0x10000 for number in range(9)]
    for reason in reasons:
        for _ in range(13):
            vcpu.call(lambda: vcpu.arm_exit(10, TRAP, HVC64))
            vcpu.call(lambda: vcpu.userspace_exit(20, reason))
            vcpu.call(lambda: vcpu.entry(30))
    record = under_test.record(vcpu)
    returns = {(Space.USERSPACE, reason): 13 for reason in reasons[:8]}
    assert exits(record) == {trap(HVC64): 9 * 13} | returns
    counters = under_test.collect().counters
    assert {name: value for name, value in counters.items() if value} == {"dropped_userspace_chain_full": 13}


def test_only_an_exec_that_changes_the_tid_ends_a_slot(machine: Load) -> None:
    """A vCPU that is its process's first thread keeps its tid over an exec, and goes on. Another thread's old tid ends.

    TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)
    """
    under_test = machine()
    first, other = under_test.vcpu(), under_test.vcpu()
    first.call(_rounds(first, 7, HVC64))
    other.call(_rounds(other, 11, SYS64))
    first.call(lambda: first.run("sched_process_exec", 9_000, 0, first.tid, 0))
    first.call(_rounds(first, 13, HVC64, start=10_000))
    assert [(record.alive, exits(record)) for record in under_test.records(first)] == [(True, {trap(HVC64): 7 + 13})]
    first.call(lambda: first.run("sched_process_exec", 20_000, 0, other.tid, 0))
    assert (under_test.record(first).alive, under_test.record(other).alive) == (True, False)
    assert exits(under_test.record(other)) == {trap(SYS64): 11}


def test_the_end_of_a_thread_frees_its_slot(loaded_now: Callable[..., program.Loaded]) -> None:
    """sched:sched_process_exit is attached. 1009 threads run in batches of 7 and use 7 slots. No slot stays in use."""
    loaded = loaded_now(program.LoadRequest(front="arm64", defines={}, slots=7, cells=14, attach=False))
    attached = attach_raw(loaded.programs["sched_process_exit"], "sched_process_exit")
    collector = Collector(loaded, lambda: 0, 10**18)
    total = 0

    def vcpu() -> None:
        leave = syscall.TestRun(loaded.programs["kvm_exit"])
        enter = syscall.TestRun(loaded.programs["kvm_entry"])
        for _ in range(3):
            leave(struct.pack("=QQ", TRAP, HVC64))
            enter(b"")

    try:
        for batch in [7] * 144 + [1]:
            threads = [threading.Thread(target=vcpu) for _ in range(batch)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
                _wait_until_gone(thread.native_id)
            total += batch
            snapshot = collector.collect()
            assert (snapshot.slots_in_use, snapshot.cells_in_use) == (0, 0)
        assert total == 1009
        assert len(snapshot.vcpus) == 1009
        assert [exits(record) for record in snapshot.vcpus] == [{trap(HVC64): 3}] * 1009
        assert [sum(record.cells[0].counts()) for record in snapshot.vcpus] == [3] * 1009
        assert set(snapshot.counters.values()) == {0}
    finally:
        collector.close()
        os.close(attached)


def test_an_exec_in_a_vcpu_thread_frees_its_slot(loaded_now: Callable[..., program.Loaded]) -> None:
    """After exec, the thread has the leader's tid. The thread's old tid ends without a sched_process_exit event."""
    loaded = loaded_now(program.LoadRequest(front="arm64", defines={}, slots=7, cells=14, attach=False))
    names = ("sched_process_exit", "sched_process_exec")
    attached = [attach_raw(loaded.programs[name], name) for name in names]
    collector = Collector(loaded, lambda: 0, 10**18)
    code = (
        "import os, struct, sys, threading\n"
        "from exporter.kernel.syscall import TestRun\n"
        "def vcpu():\n"
        "    TestRun(int(sys.argv[1]))(struct.pack('=QQ', 2, 0x16))\n"
        "    os.execv('/bin/sleep', ['sleep', '60'])\n"
        "threading.Thread(target=vcpu).start()\n"
        "threading.Event().wait()\n"
    )
    leave = loaded.programs["kvm_exit"]
    child = subprocess.Popen([sys.executable, "-c", code, str(leave)], pass_fds=[leave])
    try:
        deadline = time.monotonic() + 30
        while not (records := collector.collect().vcpus) or records[0].alive:
            assert time.monotonic() < deadline
        (record,) = records
        assert Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n"
        assert record.key.pid == child.pid
        assert record.key.tid != child.pid
        assert exits(record) == {trap(HVC64): 1}
    finally:
        child.kill()
        child.wait()
        collector.close()
        for fd in attached:
            os.close(fd)


def test_a_slot_that_the_hash_refused_is_as_clean_as_before(machine: Load) -> None:
    """Nothing is written to a slot before the hash has its thread.

    Otherwise a collection could read the slot as one of this thread, and keep this identity for the next thread that
    gets the slot. The hash is full, and the test offers leaf 0 of the slots, which no thread uses.
    """
    under_test = machine(slots=1)
    missed, first, refused = under_test.vcpu(), under_test.vcpu(), under_test.vcpu("CPU 3/KVM")
    missed.call(_rounds(missed, 3, SYS64))
    under_test.collector._slots.end(1)  # the end of this thread was missed, so its entry stays in the hash
    under_test.collect()
    first.call(_rounds(first, 19, SYS64))
    stack, slots = under_test.loaded.maps["free_slots"], under_test.loaded.maps["slots"]
    syscall.stack_push(stack, 0)
    refused.call(_rounds(refused, 17, HVC64))
    assert under_test.collect().counters["dropped_no_slot"] == 17
    assert syscall.stack_top(stack) == 0
    leaves = ArrayMap(slots, under_test.loaded.layouts["slots"])
    assert leaves.memory[: leaves.layout.size] == bytes(leaves.layout.size)
    leaves.close()
    assert exits(under_test.record(first)) == {trap(SYS64): 19}


def test_a_failed_push_is_tried_again(machine: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector keeps slots and cells that it cannot push to the free stack. No count is read twice or lost."""
    under_test = machine(slots=2, cells=3)
    first, second = under_test.vcpu(), under_test.vcpu()
    for esr_ec in (1, 2, 3):
        first.call(_rounds(first, 10 + esr_ec, esr_ec))
    first.call(lambda: first.dies(5_000))

    def refuse(stack: int, number: int) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(syscall, "stack_push", refuse)
        for _ in range(3):
            assert exits(under_test.record(first)) == {trap(1): 11, trap(2): 12, trap(3): 13}
            assert under_test.collect().recycling_pending == 4
    assert under_test.collect().recycling_pending == 0
    for esr_ec in (4, 5, 6):
        second.call(_rounds(second, 7, esr_ec))
    assert exits(under_test.record(second)) == {trap(4): 7, trap(5): 7, trap(6): 7}
    assert exits(under_test.record(first)) == {trap(1): 11, trap(2): 12, trap(3): 13}
    assert set(under_test.collect().counters.values()) == {0}


def test_the_oldest_ended_vcpus_beyond_the_limit_expire_early(machine: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """expired_early counts the ended vCPUs that were removed before their linger was over."""
    monkeypatch.setattr(snapshot, "MAX_ENDED_CELLS", 10)
    under_test = machine(slots=1, cells=3)
    vcpu = under_test.vcpu()
    for life in range(7):
        for esr_ec in (1, 2, 3):
            vcpu.call(_rounds(vcpu, life + 1, esr_ec))
        vcpu.call(lambda: vcpu.dies(5_000))
        under_test.collect()
    last = under_test.collect()
    assert [record.cells[0].exits for record in last.vcpus] == [5, 6, 7]
    assert last.expired_early == 4


def test_a_snapshot_has_every_vcpu_that_ended_since_the_last_snapshot(
    machine: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is true even if there are more ended vCPUs than the limit allows."""
    monkeypatch.setattr(snapshot, "MAX_ENDED_CELLS", 2)
    under_test = machine(slots=11, cells=11)
    vcpu = under_test.vcpu()
    for life in range(11):
        vcpu.call(_rounds(vcpu, life + 1, HVC64))
        vcpu.call(lambda: vcpu.dies(5_000))
    first = under_test.collect()
    assert sorted(record.cells[0].exits for record in first.vcpus) == list(range(1, 12))
    assert first.expired_early == 0


def _wait_until_gone(tid: int | None) -> None:
    """join() returns while the thread is still in do_exit(). Wait until the thread has disappeared from /proc."""
    while os.path.exists(f"/proc/self/task/{tid}"):
        pass
