"""The lookup reads each VM once, delays no caller, and never changes an answer."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from exporter.common.procfs import start_time
from exporter.model.records import ThreadKey
from exporter.model.vm import Vcpu, Vm
from exporter.naming import lookup
from tests.unit.naming.conftest import CPU0, CPU1, LONG, Clock, Proc, qemu, wait_for


def test_the_threads_of_a_vm_share_one_read(proc: Proc, clock: Clock, reads: Counter[int]) -> None:
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


def test_the_index_is_the_same_before_and_after_the_first_exit(proc: Proc, clock: Clock) -> None:
    """On x86, vCPU 6 of two sockets of six cores has the vcpu_id 8. The fallback has the same index."""
    proc.add(10, "web")
    proc.add(20, "stuck", hang="cmdline")
    names = proc.lookup(clock, 5)
    for vcpu_id in (None, 8):
        key = ThreadKey(10, 11, vcpu_id or 1)
        names.submit(key, b"CPU 6/KVM", vcpu_id)
        assert names.wait_known(LONG)
        assert names.get(key) == Vcpu(qemu(10, "web"), "6")
    names.submit(ThreadKey(20, 21, 1), b"CPU 6/KVM", 8)
    clock.now += 5
    assert names.get(ThreadKey(20, 21, 1)) == Vcpu(Vm(20, "20", "", "unknown"), "6")


def test_a_reused_pid_is_read_again(proc: Proc, reads: Counter[int]) -> None:
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


def test_an_exec_does_not_change_the_identity(proc: Proc, reads: Counter[int]) -> None:
    proc.add(10, "first")
    names = proc.lookup()
    for tid in (11, 12):
        names.submit(ThreadKey(10, tid, tid), CPU0, None)
        assert names.wait_known(LONG)
        proc.add(10, "second")
        assert names.get(ThreadKey(10, tid, tid)) == Vcpu(qemu(10, "first"), "0")
    assert reads == {10: 1}


def test_a_pid_that_is_reused_during_the_read_gets_the_fallback(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = iter([5, 5, 6])
    monkeypatch.setattr(lookup, "start_time", lambda *_: next(starts))
    proc.add(10, "another")
    names = proc.lookup()
    names.submit(ThreadKey(10, 11, 1), CPU0, None)
    assert names.wait_known(LONG)
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(Vm(10, "10", "", "unknown"), "0")


def test_a_process_that_has_ended_gets_the_fallback(proc: Proc) -> None:
    names = proc.lookup()
    for tid in (11, 12):
        names.submit(ThreadKey(10, tid, 1), b"CPU 2/KVM", None)
    assert names.wait_known(LONG)
    for tid in (11, 12):
        assert names.get(ThreadKey(10, tid, 1)) == Vcpu(Vm(10, "10", "", "unknown"), "2")
    names.forget([ThreadKey(10, 11, 1), ThreadKey(10, 12, 1)])
    assert not names._vms


@pytest.mark.parametrize("hang", ["cmdline", "stat"])
def test_a_vm_whose_read_hangs_gets_the_fallback_and_keeps_it(
    proc: Proc, clock: Clock, hang: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()

    # no FIFO is used here, because it would divide its bytes between two readers
    def read_stat(process: Path) -> int | None:
        if hang == "stat" and process.name == "10":
            hangs.wait(LONG)
        return start_time(process)

    monkeypatch.setattr(lookup, "start_time", read_stat)
    proc.add(10, "stuck", hang="cmdline" if hang == "cmdline" else "")
    proc.add(20, "db")
    names = proc.lookup(clock, 5)
    stuck, second, other = ThreadKey(10, 11, 1), ThreadKey(10, 12, 1), ThreadKey(20, 21, 1)
    names.submit(stuck, CPU0, None)
    names.submit(second, b"qemu-kvm", 1)
    names.submit(other, CPU0, None)
    wait_for(lambda: names.pending == 2, "the other VM is known")
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
    wait_for(lambda: all(thread.vm_key for thread in names._threads.values()), "the late answers")
    assert names.get(stuck) == fallback
    assert names.get(second) == Vcpu(fallback.vm, "1")
    names.submit(ThreadKey(10, 13, 2), CPU1, None)


def test_a_late_identity_is_used_if_nobody_got_the_fallback_before(proc: Proc, clock: Clock) -> None:
    proc.add(10, "stuck", hang="cmdline")
    names = proc.lookup(clock, 5)
    key = ThreadKey(10, 11, 1)
    names.submit(key, CPU0, None)
    fifo = proc.root / "10" / "cmdline"
    with fifo.open("wb") as writer:
        clock.now += 60
        writer.write(b"qemu-kvm\0-name\0slow\0")
    wait_for(lambda: names._vms and all(vm.identity for vm in names._vms.values()), "an answer")
    assert names.get(key) == Vcpu(Vm(10, "slow", "", "qemu"), "0")


def test_the_fallback_has_the_index_from_the_cgroup(proc: Proc, clock: Clock) -> None:
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


LIBVIRT = r"0::/machine.slice/machine-qemu\x2d3\x2dweb\x2d1.scope/libvirt/emulator"
POD = "/kubepods.slice/kubepods-pod6f1c2a70_8d55_4a3a_9a33_0b1f6b0c0002.slice/cri-1.scope"
POD_NAME = "pod-6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0002"


@pytest.mark.parametrize(
    ("cgroup", "vm"),
    [
        (LIBVIRT, Vm(10, "web-1", "", "qemu")),
        (f"0::{POD}", Vm(10, POD_NAME, "", "qemu")),
        (f"3:cpu:/x\n2:cpuset:/kubepods/burstable/{POD_NAME.replace('-', '', 1)}/0a1b", Vm(10, POD_NAME, "", "qemu")),
        ("0::/system.slice/x.service", Vm(10, "10", "", "qemu")),
    ],
)
def test_the_fallback_has_the_name_from_the_cgroup(proc: Proc, clock: Clock, cgroup: str, vm: Vm) -> None:
    """These files of a process can be read while its command line cannot. Its next start gets the right name."""
    proc.add(10, "stuck", hang="cmdline")
    (proc.root / "10/cgroup").write_text(cgroup + "\n")
    (proc.root / "10/comm").write_text("qemu-kvm\n")
    names = proc.lookup(clock, 5)
    key, later = ThreadKey(10, 11, 1), ThreadKey(10, 11, 2)
    names.submit(key, CPU0, None)
    wait_for(lambda: names._vms, "the cgroup is read")
    assert names.get(key) is None
    clock.now += 5
    assert names.get(key) == Vcpu(vm, "0")
    proc.release(b"qemu-kvm\0-name\0late\0")
    assert names.get(key) == Vcpu(vm, "0")

    (proc.root / "10/cmdline").unlink()
    proc.add(10, "started-again", start=6)
    names.submit(later, CPU0, None)
    assert names.wait_known(LONG)
    assert names.get(later) == Vcpu(qemu(10, "started-again"), "0")
    assert names.get(key) == Vcpu(vm, "0")


def test_forget_frees_threads_and_vms_and_a_new_submit_reads_again(proc: Proc, reads: Counter[int]) -> None:
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
    assert len(names._vms) == 1
    names.forget([second])
    names.forget([second])
    assert (names._threads, names._vms, names._unanswered, names._fallbacks) == ({}, {}, {}, {})
    names.submit(first, CPU0, None)
    assert names.wait_known(LONG)
    assert names.get(first) == Vcpu(qemu(10, "web"), "0")
    assert reads == {10: 2}


def test_a_key_can_be_forgotten_while_its_read_hangs(proc: Proc, clock: Clock) -> None:
    proc.add(10, "stuck", hang="cmdline")
    names = proc.lookup(clock, 5)
    key = ThreadKey(10, 11, 1)
    names.submit(key, CPU0, None)
    wait_for(lambda: names._vms, "the VM is read")
    names.forget([key])
    assert (names._threads, names._vms, names._unanswered, names._fallbacks) == ({}, {}, {}, {})
    proc.release(b"qemu-kvm\0")
    wait_for(lambda: all(worker.busy_since is None for worker in names._pool.workers), "the read returns")
    assert (names._threads, names._vms, names._fallbacks) == ({}, {}, {})


def test_all_threads_that_ask_at_the_same_time_get_the_same_answer(proc: Proc, reads: Counter[int]) -> None:
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
                failures.append("a key is pending")
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


def test_no_file_of_a_foreign_pid_is_read(proc: Proc, clock: Clock, reads: Counter[int]) -> None:
    """In another PID namespace, the pid of a VM means another process of this namespace."""
    proc.add(10, "not-this-vm")
    thread = proc.root / "10/task/11"
    thread.mkdir(parents=True)
    (thread / "cgroup").write_text("0::/machine.slice/libvirt/vcpu5\n")
    (proc.root / "self/ns").mkdir(parents=True)
    (proc.root / "self/ns/pid").symlink_to("pid:[4026532299]")
    names = proc.lookup(clock)
    for tid, comm in ((11, b"qemu-system-x86"), (12, CPU1)):
        names.submit(ThreadKey(10, tid, 1), comm, None)
    assert names.pending == 0
    assert [names.get(ThreadKey(10, tid, 1)) for tid in (11, 12)] == [
        Vcpu(Vm(10, "10", "", "unknown"), index) for index in ("", "1")
    ]
    names.submit(ThreadKey(10, 11, 1), b"qemu-system-x86", 8)  # now the kernel's vcpu_id is known
    assert names.get(ThreadKey(10, 11, 1)) == Vcpu(Vm(10, "10", "", "unknown"), "")
    names.forget([ThreadKey(10, 11, 1), ThreadKey(10, 12, 1)])
    assert names.get(ThreadKey(10, 11, 1)) is None
    assert reads == {}
