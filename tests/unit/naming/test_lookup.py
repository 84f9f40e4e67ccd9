"""exporter.vms.lookup: once per VM, never waiting, never changing its mind."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from exporter.model.records import ThreadKey
from exporter.model.vm import Vcpu, Vm
from exporter.naming import lookup
from exporter.naming.identity import identify, start_time
from exporter.naming.lookup import Lookup

LONG = 20.0
CPU0, CPU1 = b"CPU 0/KVM", b"CPU 1/KVM"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Proc:
    """A tree in the shape of /proc whose processes can be made to hang."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._fifos: list[Path] = []
        self._lookups: list[Lookup] = []

    def add(self, pid: int, name: str, *, start: int = 5, hang: str = "") -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(f"{pid} (qemu) S " + "0 " * 18 + f"{start} 0\n")
        (folder / "cmdline").write_bytes(f"qemu-kvm\0-name\0guest={name}\0-uuid\0u-{name}\0".encode())
        if hang:
            (folder / hang).unlink()
            os.mkfifo(folder / hang)
            self._fifos.append(folder / hang)

    def lookup(self, clock: Callable[[], float] = time.monotonic, patience: float = LONG) -> Lookup:
        names = Lookup(self.root, clock=clock, patience=patience)
        self._lookups.append(names)
        return names

    def close(self) -> None:
        """Stop what the test began, and see that no thread is left of it."""
        for names in self._lookups:
            names.close()
        end = time.monotonic() + LONG
        while workers():
            assert time.monotonic() < end, "workers leave"
            self.release()
            time.sleep(0.005)

    def release(self, content: bytes = b"", *, every: int = 1) -> None:
        """Let the reads of all FIFOs return; `every` readers each."""
        for fifo in self._fifos:
            for _ in range(every):
                try:
                    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
                except OSError:
                    break  # nobody reads
                with suppress(OSError):  # the reader may have read another's and left
                    os.write(writer, content)
                os.close(writer)


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Proc]:
    tree = Proc(tmp_path)
    yield tree
    tree.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often the command line of each pid was read."""
    counted: Counter[int] = Counter()
    real = identify

    def counting(pid: int, root: Path) -> Vm:
        counted[pid] += 1
        return real(pid, root)

    monkeypatch.setattr(lookup, "identify", counting)
    return counted


def qemu(pid: int, name: str) -> Vm:
    return Vm(pid, name, f"u-{name}", "qemu")


def workers() -> int:
    return sum(thread.name == "vm-lookup" for thread in threading.enumerate())


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def test_threads_of_one_vm_share_one_read(proc: Proc, clock: Clock, reads: Counter[int]) -> None:
    proc.add(10, "web")
    proc.add(20, "db")
    names = proc.lookup(clock)
    keys = {(pid, n): ThreadKey(pid, pid + 1 + n, 7) for pid in (10, 20) for n in range(9)}
    for (_, n), key in keys.items():
        names.submit(key, b"CPU %d/KVM" % n, None)
        names.submit(key, b"CPU %d/KVM" % n, None)
    assert names.wait_known(LONG)
    answers = {where: names.get(key) for where, key in keys.items()}
    assert answers == {
        (pid, n): Vcpu(qemu(pid, "web" if pid == 10 else "db"), str(n)) for pid in (10, 20) for n in range(9)
    }
    assert len({id(answer.vm) for answer in answers.values() if answer}) == 2
    assert reads == {10: 1, 20: 1}
    names.submit(ThreadKey(10, 99, 8), b"x", 9)
    assert names.wait_known(LONG)
    assert names.get(ThreadKey(10, 99, 8)) == Vcpu(qemu(10, "web"), "9")
    assert reads == {10: 1, 20: 1}


def test_nothing_starts_before_it_is_needed(proc: Proc) -> None:
    names = proc.lookup()
    assert names.wait_known(0)
    assert names.pending == 0
    assert names.get(ThreadKey(1, 1, 1)) is None
    assert not workers()


def test_reused_pid_is_asked_anew(proc: Proc, reads: Counter[int]) -> None:
    proc.add(10, "old", start=5)
    names = proc.lookup()
    old, new = ThreadKey(10, 11, 1), ThreadKey(10, 11, 2)
    names.submit(old, CPU0, None)
    assert names.wait_known(LONG)
    proc.add(10, "new", start=6)
    names.submit(new, CPU0, None)
    assert names.wait_known(LONG)
    assert names.get(old) == Vcpu(qemu(10, "old"), "0")
    assert names.get(new) == Vcpu(qemu(10, "new"), "0")
    assert reads == {10: 2}


def test_exec_keeps_the_identity(proc: Proc, reads: Counter[int]) -> None:
    proc.add(10, "first")
    names = proc.lookup()
    for tid in (11, 12):
        names.submit(ThreadKey(10, tid, tid), CPU0, None)
        assert names.wait_known(LONG)
        proc.add(10, "second")
        assert names.get(ThreadKey(10, tid, tid)) == Vcpu(qemu(10, "first"), "0")
    assert reads == {10: 1}


def test_pid_that_changes_hands_during_the_read(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = iter([5, 6])
    monkeypatch.setattr(lookup, "start_time", lambda *_: next(starts))
    proc.add(10, "another")
    names = proc.lookup()
    names.submit(ThreadKey(10, 11, 1), CPU0, None)
    assert names.wait_known(LONG)
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(Vm(10, "10", "", "unknown"), "0")


def test_process_that_is_gone(proc: Proc) -> None:
    names = proc.lookup()
    for tid in (11, 12):
        names.submit(ThreadKey(10, tid, 1), b"CPU 2/KVM", None)
    assert names.wait_known(LONG)
    for tid in (11, 12):
        assert names.get(ThreadKey(10, tid, 1)) == Vcpu(Vm(10, "10", "", "unknown"), "2")
    names.forget([ThreadKey(10, 11, 1), ThreadKey(10, 12, 1)])
    assert not names._machines


@pytest.mark.parametrize("hang", ["cmdline", "stat"])
def test_a_hanging_vm_gets_the_fallback_and_keeps_it(
    proc: Proc, clock: Clock, hang: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()

    def read_stat(pid: int, root: Path) -> int | None:  # a FIFO would not give two readers the same
        if hang == "stat" and pid == 10:
            hangs.wait(LONG)
        return start_time(pid, root)

    monkeypatch.setattr(lookup, "start_time", read_stat)
    proc.add(10, "stuck", hang="cmdline" if hang == "cmdline" else "")
    proc.add(20, "db")
    names = proc.lookup(clock, 5)
    stuck, second, other = ThreadKey(10, 11, 1), ThreadKey(10, 12, 1), ThreadKey(20, 21, 1)
    names.submit(stuck, CPU0, None)
    names.submit(second, b"qemu-kvm", 1)
    names.submit(other, CPU0, None)
    wait_for(lambda: names.pending == 2, "the other VM resolves")
    assert names.get(other) == Vcpu(qemu(20, "db"), "0")
    assert names.get(stuck) is None
    assert not names.wait_known(0.05)
    clock.now += 4.999
    assert names.get(stuck) is None
    clock.now += 0.001
    assert names.pending == 0
    assert names.wait_known(0)
    fallback = Vcpu(Vm(10, "10", "", "unknown"), "0")
    assert names.get(stuck) == fallback
    hangs.set()
    proc.release(b"qemu-kvm\0-name\0late\0")
    wait_for(lambda: all(thread.machine_key for thread in names._threads.values()), "the late answers")
    assert names.get(stuck) == fallback
    assert names.get(second) == Vcpu(fallback.vm, "1")
    names.submit(ThreadKey(10, 13, 2), CPU1, None)


def test_an_answer_that_is_late_but_was_not_missed_is_the_true_one(proc: Proc, clock: Clock) -> None:
    proc.add(10, "stuck", hang="cmdline")
    names = proc.lookup(clock, 5)
    key = ThreadKey(10, 11, 1)
    names.submit(key, CPU0, None)
    fifo = proc.root / "10" / "cmdline"
    with fifo.open("wb") as writer:
        clock.now += 60
        writer.write(b"qemu-kvm\0-name\0slow\0")
    wait_for(lambda: names._machines and all(machine.vm for machine in names._machines.values()), "an answer")
    assert names.get(key) == Vcpu(Vm(10, "slow", "", "qemu"), "0")


def test_many_hanging_vms_do_not_stop_another(proc: Proc, clock: Clock) -> None:
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
        return sum(worker.busy_since is not None for worker in names._workers)

    for expected in (4, 8, 12):
        while hanging() < expected:
            time.sleep(0.005)
        assert hanging() == expected
        clock.now += 250
    wait_for(lambda: names.get(ThreadKey(10, 11, 1)), "the last in the queue")
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(qemu(10, "web"), "0")

    # However many hang, the workers have a bound, and work goes on when they come back.
    for pid in range(112, 150):
        names.submit(ThreadKey(pid, pid, 1), CPU0, None)
    bound = lookup._WORKERS + lookup._MAX_ABANDONED

    def crowd() -> int:
        clock.now += 250
        names.get(last)
        return len(names._workers)

    wait_for(lambda: crowd() == bound, "the bound is reached")
    for _ in range(20):
        time.sleep(0.002)
        assert crowd() == workers() == bound
    assert names.get(ThreadKey(149, 149, 1)) == Vcpu(Vm(149, "149", "", "unknown"), "0")
    proc.add(10, "web", start=77)
    names.submit(ThreadKey(10, 11, 2), CPU0, None)

    def released() -> Vcpu | None:
        proc.release(every=100)
        return names.get(ThreadKey(10, 11, 2))

    wait_for(released, "a worker is back")
    assert names.get(ThreadKey(10, 11, 2)) == Vcpu(qemu(10, "web"), "0")


def test_a_hung_vm_with_many_threads_holds_one_worker(proc: Proc) -> None:
    proc.add(10, "stuck", hang="cmdline")
    names = proc.lookup()
    for tid in range(11, 75):
        names.submit(ThreadKey(10, tid, 1), CPU0, None)
    wait_for(lambda: all(thread.index is not None for thread in names._threads.values()), "all are linked")
    assert sum(worker.busy_since is not None for worker in names._workers) == 1
    assert workers() <= lookup._WORKERS
    assert names.pending == 64
    with (proc.root / "10" / "cmdline").open("wb") as writer:
        writer.write(b"qemu-kvm\0-name\0web\0")
    assert names.wait_known(LONG)
    assert {names.get(ThreadKey(10, tid, 1)) for tid in range(11, 75)} == {Vcpu(Vm(10, "web", "", "qemu"), "0")}


def test_index_of_the_fallback_may_come_from_the_cgroup(proc: Proc, clock: Clock) -> None:
    proc.add(10, "stuck", hang="cmdline")
    thread = proc.root / "10" / "task" / "11"
    thread.mkdir(parents=True)
    (thread / "cgroup").write_text("0::/x/libvirt/vcpu6\n")
    names = proc.lookup(clock, 5)
    key = ThreadKey(10, 11, 1)
    names.submit(key, b"qemu-kvm", None)
    wait_for(lambda: names._threads[key].index, "the index")
    clock.now += 5
    assert names.get(key) == Vcpu(Vm(10, "10", "", "unknown"), "6")


def test_forget_frees_threads_and_vms(proc: Proc, reads: Counter[int]) -> None:
    proc.add(10, "web")
    names = proc.lookup()
    first, second = ThreadKey(10, 11, 1), ThreadKey(10, 12, 1)
    names.submit(first, CPU0, None)
    names.submit(second, CPU1, None)
    assert names.wait_known(LONG)
    assert names.get(first) == Vcpu(qemu(10, "web"), "0")
    names.forget([first, ThreadKey(99, 99, 99)])
    assert names.get(first) is None
    assert names.get(second) == Vcpu(qemu(10, "web"), "1")
    assert len(names._machines) == 1
    names.forget([second])
    names.forget([second])
    assert (names._threads, names._machines, names._unserved, names._given_up) == ({}, {}, {}, {})
    names.submit(first, CPU0, None)
    assert names.wait_known(LONG)
    assert names.get(first) == Vcpu(qemu(10, "web"), "0")
    assert reads == {10: 2}


def test_forgotten_while_the_read_hangs(proc: Proc, clock: Clock) -> None:
    proc.add(10, "stuck", hang="cmdline")
    names = proc.lookup(clock, 5)
    key = ThreadKey(10, 11, 1)
    names.submit(key, CPU0, None)
    wait_for(lambda: names._machines, "the VM is asked")
    names.forget([key])
    assert (names._threads, names._machines, names._unserved, names._given_up) == ({}, {}, {}, {})
    proc.release(b"qemu-kvm\0")
    wait_for(lambda: all(worker.busy_since is None for worker in names._workers), "the read returns")
    assert (names._threads, names._machines, names._given_up) == ({}, {}, {})


def test_close_sends_workers_home(proc: Proc) -> None:
    proc.add(10, "web")
    names = proc.lookup()
    names.submit(ThreadKey(10, 11, 1), CPU0, None)
    assert names.wait_known(LONG)
    names.close()
    names.close()
    wait_for(lambda: not workers(), "workers leave")
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(qemu(10, "web"), "0")
    names.submit(ThreadKey(10, 12, 1), CPU1, None)
    assert not names.wait_known(LONG)
    assert not workers()


def test_no_thread_to_be_had(proc: Proc, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    proc.add(10, "web")
    names = proc.lookup(clock, 5)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        names.submit(ThreadKey(10, 11, 1), CPU0, None)
        assert names.get(ThreadKey(10, 11, 1)) is None
        assert not names._workers
    assert names.wait_known(LONG)
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(qemu(10, "web"), "0")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_fails_leaves_the_fallback(proc: Proc, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pid: int, root: Path) -> Vm:
        raise MemoryError

    names = proc.lookup(clock, 5)
    with monkeypatch.context() as patch:
        patch.setattr(lookup, "identify", fail)
        names.submit(ThreadKey(10, 11, 1), CPU0, None)
        wait_for(lambda: names._machines and not names._workers, "the worker ends")
    clock.now += 5
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(Vm(10, "10", "", "unknown"), "0")
    proc.add(20, "db")
    names.submit(ThreadKey(20, 21, 1), CPU0, None)
    assert names.wait_known(LONG)
    assert names.get(ThreadKey(20, 21, 1)) == Vcpu(qemu(20, "db"), "0")


def test_from_many_threads_at_once(proc: Proc, reads: Counter[int]) -> None:
    pids = range(100, 140)
    for pid in pids:
        proc.add(pid, f"vm{pid}")
    names = proc.lookup()
    keys = [ThreadKey(pid, tid, 1) for tid in range(8) for pid in pids]
    seen: list[dict[ThreadKey, set[Vcpu]]] = []
    failures: list[str] = []

    def use(offset: int) -> None:
        answers: dict[ThreadKey, set[Vcpu]] = {key: set() for key in keys}
        for _ in range(6):
            for key in keys[offset:] + keys[:offset]:
                names.submit(key, b"CPU %d/KVM" % key.tid, None)
                answer = names.get(key)
                if answer is not None:
                    answers[key].add(answer)
            if not names.wait_known(LONG):
                failures.append("not settled")
        seen.append(answers)

    users = [threading.Thread(target=use, args=(n * 40,)) for n in range(8)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    expected = {key: {Vcpu(qemu(key.pid, f"vm{key.pid}"), str(key.tid))} for key in keys}
    assert not failures
    assert seen == [expected] * 8
    assert reads == Counter(pids)


def test_submit_and_get_do_not_wait_for_a_hanging_read(proc: Proc) -> None:
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
