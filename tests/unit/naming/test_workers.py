"""The workers of the lookup: when a worker starts and when it ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from exporter.model.records import ThreadKey
from exporter.model.vm import Vcpu, Vm
from exporter.naming import lookup
from exporter.naming.workers import MAX_STUCK, MAX_WORKERS
from tests.unit.naming.conftest import CPU0, CPU1, LONG, Clock, Proc, qemu, running_workers, wait_for


def test_no_worker_starts_before_a_key_is_submitted(proc: Proc) -> None:
    names = proc.lookup()
    assert names.wait_known(0)
    assert names.pending == 0
    assert names.get(ThreadKey(1, 1, 1)) is None
    assert not running_workers()


def test_workers_that_hang_are_replaced_up_to_a_limit(proc: Proc, clock: Clock) -> None:
    for pid in range(100, 150):
        proc.add(pid, "stuck", hang="cmdline")
    proc.add(10, "web")
    names = proc.lookup(clock, 1000)
    for pid in range(100, 112):
        names.submit(ThreadKey(pid, pid, 1), CPU0, None)
    names.submit(ThreadKey(10, 11, 1), CPU0, None)
    last = ThreadKey(10, 11, 1)

    def hanging() -> int:
        assert names.get(last) is None
        return sum(worker.busy_since is not None for worker in names._pool.workers)

    for expected in (4, 8, 12):
        while hanging() < expected:
            time.sleep(0.005)
        assert hanging() == expected
        clock.now += 250
    wait_for(lambda: names.get(ThreadKey(10, 11, 1)), "the last in the queue is read")
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(qemu(10, "web"), "0")

    # If more reads hang, the number of workers stays at its limit. Reads continue when a worker returns.
    for pid in range(112, 150):
        names.submit(ThreadKey(pid, pid, 1), CPU0, None)
    bound = MAX_WORKERS + MAX_STUCK

    def count() -> int:
        clock.now += 250
        names.get(last)
        return len(names._pool.workers)

    wait_for(lambda: count() == bound, "the bound is reached")
    for _ in range(20):
        time.sleep(0.002)
        assert count() == running_workers() == bound
    assert names.get(ThreadKey(149, 149, 1)) == Vcpu(Vm(149, "149", "", "unknown"), "0")
    proc.add(10, "web", start=77)
    names.submit(ThreadKey(10, 11, 2), CPU0, None)

    def released() -> Vcpu | None:
        proc.release(every=100)
        return names.get(ThreadKey(10, 11, 2))

    wait_for(released, "a worker returns from its read")
    assert names.get(ThreadKey(10, 11, 2)) == Vcpu(qemu(10, "web"), "0")


def test_a_vm_that_starts_beside_any_number_of_reads_that_hang_gets_its_name(proc: Proc, clock: Clock) -> None:
    """Each read that hangs costs only its own VM. The number of threads and processes is bounded."""
    stuck = [ThreadKey(pid, pid, 1) for pid in range(100, 100 + MAX_WORKERS + MAX_STUCK + 7)]
    names = proc.lookup(clock, 1000)
    for key in stuck:
        proc.add(key.pid, "stuck", hang="cmdline")
        names.submit(key, CPU0, None)

    def begun() -> bool:
        """Each read has begun, or the last worker hangs."""
        time.sleep(0.01)
        clock.now += 250
        names.get(stuck[0])
        workers = list(names._pool.workers)
        assert running_workers() <= MAX_WORKERS + MAX_STUCK
        return not names._pool._queue or sum(worker.stuck for worker in workers) == MAX_WORKERS + MAX_STUCK

    wait_for(begun, "the reads begin")
    for number, start in enumerate((5, 6, 7)):
        proc.add(10, "web", start=start)
        key = ThreadKey(10, 11, number)
        names.submit(key, CPU0, None)
        assert names.wait_known(LONG)
        assert names.get(key) == Vcpu(qemu(10, "web"), "0")
    assert names.pending == 0


def test_the_queue_goes_on_while_nobody_asks(proc: Proc) -> None:
    """A scraper asks every 15 seconds. Until then, the VMs behind reads that hang must not wait."""
    names = proc.lookup(patience=2)
    for pid in range(100, 100 + 2 * MAX_WORKERS + 1):
        proc.add(pid, "stuck", hang="cmdline")
        names.submit(ThreadKey(pid, pid, 1), CPU0, None)
    proc.add(10, "web")
    names.submit(ThreadKey(10, 11, 1), CPU0, None)
    wait_for(lambda: any(vm.identity for vm in list(names._vms.values())), "the last in the queue is read")
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(qemu(10, "web"), "0")
    wait_for(lambda: not names._pool._watched, "nothing waits any more")


def test_a_vm_whose_read_hangs_keeps_one_worker_busy_for_all_its_threads(proc: Proc) -> None:
    proc.add(10, "stuck", hang="cmdline")
    names = proc.lookup()
    for tid in range(11, 75):
        names.submit(ThreadKey(10, tid, 1), CPU0, None)
    wait_for(lambda: all(thread.index is not None for thread in names._threads.values()), "each index is read")
    assert sum(worker.busy_since is not None for worker in names._pool.workers) == 1
    assert running_workers() <= MAX_WORKERS
    assert names.pending == 64
    with (proc.root / "10" / "cmdline").open("wb") as writer:
        writer.write(b"qemu-kvm\0-name\0web\0")
    assert names.wait_known(LONG)
    assert {names.get(ThreadKey(10, tid, 1)) for tid in range(11, 75)} == {Vcpu(Vm(10, "web", "", "qemu"), "0")}


def test_close_ends_the_workers(proc: Proc) -> None:
    proc.add(10, "web")
    names = proc.lookup()
    names.submit(ThreadKey(10, 11, 1), CPU0, None)
    assert names.wait_known(LONG)
    names.close()
    names.close()
    wait_for(lambda: not running_workers(), "the workers end")
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(qemu(10, "web"), "0")
    names.submit(ThreadKey(10, 12, 1), CPU1, None)
    assert not names.wait_known(LONG)
    assert not running_workers()


def test_a_worker_thread_that_fails_to_start_is_started_again_later(
    proc: Proc, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    proc.add(10, "web")
    names = proc.lookup(clock, 5)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        names.submit(ThreadKey(10, 11, 1), CPU0, None)
        assert names.get(ThreadKey(10, 11, 1)) is None
        assert not names._pool.workers
    assert names.wait_known(LONG)
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(qemu(10, "web"), "0")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_read_that_raises_an_exception_gives_the_fallback(
    proc: Proc, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pid: int, root: Path, read: object) -> Vm:
        raise MemoryError

    names = proc.lookup(clock, 5)
    with monkeypatch.context() as patch:
        patch.setattr(lookup, "identify", fail)
        names.submit(ThreadKey(10, 11, 1), CPU0, None)
        wait_for(lambda: names._vms and not names._pool.workers, "the worker ends")
    clock.now += 5
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(Vm(10, "10", "", "unknown"), "0")
    proc.add(20, "db")
    names.submit(ThreadKey(20, 21, 1), CPU0, None)
    assert names.wait_known(LONG)
    assert names.get(ThreadKey(20, 21, 1)) == Vcpu(qemu(20, "db"), "0")


def test_submit_and_get_do_not_wait_for_a_read_that_hangs(proc: Proc) -> None:
    for pid in range(100, 108):
        proc.add(pid, "stuck", hang="cmdline")
    names = proc.lookup()
    started = time.monotonic()
    for pid in range(100, 108):
        for tid in range(100):
            names.submit(ThreadKey(pid, tid, 1), CPU0, None)
            assert names.get(ThreadKey(pid, tid, 1)) is None
    assert time.monotonic() - started < 5
    assert names.pending == 800
