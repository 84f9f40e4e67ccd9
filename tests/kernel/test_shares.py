"""A process that takes more than its share of slots or cells leaves room for the VMs that start after it."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import pytest

from exporter.collect.collector import Collector
from exporter.kernel import syscall
from tests.support.machine import Machine, exits, trap

Load = Callable[..., Machine]

# Each line of the input is a step: "run VCPUS FIRST REASONS TIMES" or "end". The vCPUs have their exits one after the
# other, so that the numbers are known.
_VM = """
import queue, struct, sys, threading
from exporter.kernel.syscall import TestRun
leave, enter, finish = (int(fd) for fd in sys.argv[1:])
work, done, vcpus = [], queue.SimpleQueue(), []

def vcpu(steps):
    exit, entry, end = TestRun(leave), TestRun(enter), TestRun(finish)
    while (step := steps.get()) is not None:
        first, reasons, times = step
        for reason in range(first, first + reasons):
            for _ in range(times):
                exit(struct.pack("=11QQ", 2, reason, *[0] * 9, 1000))
                entry(struct.pack("=11QQ", *[0] * 11, 1050))
        done.put(None)
    end(struct.pack("=11QQ", *[0] * 11, 2000))
    done.put(None)

for line in sys.stdin:
    step, *numbers = line.split()
    if step == "run":
        number, *what = map(int, numbers)
        while len(vcpus) < number:
            vcpus.append(queue.SimpleQueue())
            threading.Thread(target=vcpu, args=(vcpus[-1],), daemon=True).start()
        for steps in vcpus[:number]:
            steps.put(what)
            done.get()
    else:
        for steps in vcpus:
            steps.put(None)
            done.get()
        vcpus.clear()
    print("done", flush=True)
"""


class Vm:
    """A process whose threads have exits. Each thread is a vCPU."""

    def __init__(self, machine: Machine) -> None:
        names = ("kvm_exit", "kvm_entry", "sched_process_exit")
        programs = [machine.loaded.programs[name] for name in names]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _VM, *map(str, programs)],
            pass_fds=programs,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._machine = machine
        self.pid = self._process.pid

    def run(self, vcpus: int, reasons: range, times: int) -> None:
        """Let the first `vcpus` vCPUs have `times` exits for each reason."""
        self._step(f"run {vcpus} {reasons.start} {len(reasons)} {times}")

    def end_vcpus(self) -> None:
        """Let the program see the end of each vCPU. Later vCPUs are new threads."""
        self._step("end")

    def vcpus(self) -> list[dict[tuple[int, int], int]]:
        """Collect; return the exits of each vCPU."""
        return [exits(record) for record in self._machine.collect().vcpus if record.key.pid == self.pid]

    def close(self) -> None:
        self._process.communicate()

    def _step(self, line: str) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


@pytest.fixture
def vm() -> Iterator[Callable[[Machine], Vm]]:
    """Return vm(machine). It starts a VM, which ends after the test."""
    with ExitStack() as stack:

        def start(machine: Machine) -> Vm:
            made = Vm(machine)
            stack.callback(made.close)
            return made

        yield start


def _not_0(counters: Mapping[str, int]) -> dict[str, int]:
    return {name: value for name, value in counters.items() if value}


def _each(vcpus: int, reasons: range, times: int) -> Sequence[dict[tuple[int, int], int]]:
    return [{trap(reason): times for reason in reasons}] * vcpus


def test_a_vm_with_many_vcpus_leaves_slots_to_the_next(machine: Load, vm: Callable[[Machine], Vm]) -> None:
    under_test = machine(slots=103, cells=1009)
    greedy, following = vm(under_test), vm(under_test)
    greedy.run(211, range(1), 3)
    following.run(11, range(3, 8), 13)
    assert following.vcpus() == _each(11, range(3, 8), 13)
    # 25 slots are the reserve. The 63rd vCPU finds 62 slots of its VM, and 16 free ones: 62 < 4 * 16. 63 > 4 * 15.
    assert greedy.vcpus() == _each(63, range(1), 3)
    snapshot = under_test.collect()
    assert _not_0(snapshot.counters) == {"dropped_no_slot": (211 - 63) * 3}
    assert snapshot.drops == {greedy.pid: ((211 - 63) * 3, 0)}


def test_five_vms_with_every_reason_leave_cells_to_the_next(machine: Load, vm: Callable[[Machine], Vm]) -> None:
    under_test = machine(slots=401, cells=2003)
    greedy = [vm(under_test) for _ in range(5)]
    for each in greedy:
        each.run(31, range(64), 3)
    held = [sum(map(len, each.vcpus())) for each in greedy]
    following = vm(under_test)
    following.run(4, range(11), 7)
    assert following.vcpus() == _each(4, range(11), 7)
    # 500 cells are the reserve. Each VM gets 4/5 of the part of the other 1,503 that is free, or 47.
    assert held == [1203, 240, 48, 47, 47]
    snapshot = under_test.collect()
    assert _not_0(snapshot.counters) == {"dropped_no_cell": (5 * 31 * 64 - sum(held)) * 3}
    assert snapshot.drops == {each.pid: ((31 * 64 - cells) * 3, 0) for each, cells in zip(greedy, held)}


def test_the_vm_with_the_most_is_refused_first(machine: Load, vm: Callable[[Machine], Vm]) -> None:
    """It keeps everything that it has, and its exits for old reasons are counted as before."""
    under_test = machine(slots=101, cells=1000)
    large, medium = vm(under_test), vm(under_test)
    large.run(10, range(55), 2)
    medium.run(4, range(20), 5)
    large.run(10, range(64), 3)  # it has 550 cells, and 120 of the 750 that are no reserve are free
    medium.run(4, range(30), 7)
    assert large.vcpus() == _each(10, range(55), 2 + 3)
    assert medium.vcpus() == [{trap(reason): 5 + 7 if reason < 20 else 7 for reason in range(30)}] * 4
    snapshot = under_test.collect()
    assert _not_0(snapshot.counters) == {"dropped_no_cell": 10 * 9 * 3}
    assert snapshot.drops == {large.pid: (10 * 9 * 3, 0)}


def test_a_process_gets_its_share_again_after_its_threads_have_ended(
    machine: Load, vm: Callable[[Machine], Vm]
) -> None:
    under_test = machine(slots=103, cells=211)
    churning = vm(under_test)
    for times in (3, 5, 7, 11):
        churning.run(61, range(2), times)
        assert [counted for counted in churning.vcpus() if counted[trap(0)] == times] == _each(61, range(2), times)
        churning.end_vcpus()
        under_test.collect()
    assert _not_0(under_test.collect().counters) == {}
    assert syscall.map_keys(under_test.loaded.maps["shares"]) == []


def test_the_next_process_corrects_what_a_killed_one_did_not_store(
    machine: Load, vm: Callable[[Machine], Vm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slots and cells were returned, and then the kernel refused the new numbers of their processes."""
    under_test = machine(slots=103, cells=211)
    staying, ended = vm(under_test), vm(under_test)
    for each in (staying, ended):
        each.run(23, range(2), 3)
        each.end_vcpus()
    staying.run(7, range(2), 5)
    with monkeypatch.context() as patched:
        for name in ("map_update", "map_delete"):
            patched.setattr(syscall, name, _refuse)
        assert under_test.collect().recycling_pending == 0
    assert _shares(under_test) == {staying.pid: (23 + 7, 46 + 14), ended.pid: (23, 46)}
    following = Collector(under_test.loaded, lambda: 10**6, 10**12)
    following.collect()
    following.close()
    assert _shares(under_test) == {staying.pid: (7, 14)}
    assert _usage(under_test) == (7, 14)


def test_numbers_that_the_kernel_refused_are_stored_by_the_next_collection(
    machine: Load, vm: Callable[[Machine], Vm], monkeypatch: pytest.MonkeyPatch
) -> None:
    under_test = machine(slots=103, cells=211)
    made = vm(under_test)
    under_test.collect()
    made.run(23, range(2), 3)
    made.end_vcpus()
    with monkeypatch.context() as patched:
        for name in ("map_delete", "stack_push"):
            patched.setattr(syscall, name, _refuse)
        under_test.collect()
        assert (_shares(under_test), _usage(under_test)) == ({made.pid: (23, 46)}, (23, 46))
    under_test.collect()
    assert (_shares(under_test), _usage(under_test)) == ({}, (0, 0))


def test_what_a_process_takes_while_its_number_is_stored_is_found_by_the_next_collection(
    machine: Load, vm: Callable[[Machine], Vm], monkeypatch: pytest.MonkeyPatch
) -> None:
    under_test = machine(slots=103, cells=211)
    made = vm(under_test)
    made.run(23, range(2), 3)
    made.end_vcpus()
    delete = syscall.map_delete

    def late(table: int, key: int) -> None:
        made.run(5, range(2), 7)
        delete(table, key)

    with monkeypatch.context() as patched:
        patched.setattr(syscall, "map_delete", late)
        under_test.collect()
    assert _shares(under_test) == {}
    under_test.collect()
    assert (_shares(under_test), _usage(under_test)) == ({made.pid: (5, 10)}, (5, 10))


def test_returns_to_the_vmm_are_dropped_under_the_name_of_their_process(machine: Load) -> None:
    under_test = machine(slots=1, cells=1)
    first, second = under_test.vcpu(), under_test.vcpu()
    for vcpu in (first, second):
        vcpu.call(lambda: vcpu.entry(1_000))
    for times, vcpu in ((3, first), (5, second)):
        for number in range(times + 1):
            vcpu.call(lambda: vcpu.userspace_exit(2_000, number))
    vcpu.call(lambda: vcpu.arm_exit(3_000, 2, 1))
    snapshot = under_test.collect()
    assert _not_0(snapshot.counters) == {
        **{"dropped_no_slot": 1, "dropped_userspace_no_slot": 6, "dropped_userspace_no_cell": 3},
        "unmatched_entry": 1,
    }
    assert snapshot.drops == {os.getpid(): (1, 6 + 3)}


_MANY = """
import os, struct, sys
from exporter.kernel.syscall import TestRun
for number in range(71):
    if os.fork() == 0:
        leave = TestRun(int(sys.argv[1]))
        for _ in range(3):
            leave(struct.pack("=11QQ", 2, number, *[0] * 9, 1000))
        os._exit(0)
    os.wait()
"""


def test_the_drops_of_a_bounded_number_of_processes_have_a_name(machine: Load) -> None:
    """The other drops are only in the counters. A process without a vCPU is forgotten after linger."""
    under_test = machine(slots=1, cells=1, linger_ns=1_000)
    vcpu = under_test.vcpu()
    vcpu.call(lambda: vcpu.arm_exit(1_000, 2, 1))
    leave = under_test.loaded.programs["kvm_exit"]
    subprocess.run([sys.executable, "-c", _MANY, str(leave)], pass_fds=[leave], check=True)
    snapshot = under_test.collect()
    assert snapshot.counters["dropped_no_slot"] == 71 * 3
    assert list(snapshot.drops.values()) == [(3, 0)] * 64
    vcpu.call(lambda: vcpu.arm_exit(1_000, 2, 2))
    under_test.now = 999
    assert len(under_test.collect().drops) == 64
    under_test.now = 1_000
    assert under_test.collect().drops == {}
    vcpu.call(lambda: vcpu.arm_exit(1_000, 2, 3))
    assert under_test.collect().drops == {os.getpid(): (1, 0)}
    under_test.now = 10**9
    assert under_test.collect().drops == {os.getpid(): (1, 0)}  # its vCPU lives


def _refuse(*_: object) -> None:
    raise OSError(errno.EPERM, "refused")


def _shares(under_test: Machine) -> dict[int, tuple[int, ...]]:
    table = under_test.loaded.maps["shares"]
    return {key: struct.unpack("=QQ", syscall.map_lookup(table, key, 16)) for key in syscall.map_keys(table)}


def _usage(under_test: Machine) -> tuple[int, ...]:
    return struct.unpack("=QQ", syscall.map_lookup(under_test.loaded.maps["usage"], 0, 16))
