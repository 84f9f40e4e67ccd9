"""A loaded program, and threads whose exits, entries and ends occur at times that the test chooses."""

from __future__ import annotations

import os
import queue
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

from exporter.collect.collector import Collector
from exporter.kernel import launcher, program
from exporter.kernel.isa import registry
from exporter.kernel.syscall import TestRun
from exporter.model.buckets import BUCKETS, FIRST_BOUND
from exporter.model.reason import Space
from exporter.model.records import Snapshot, VcpuRecord
from exporter.recording.vm import name_thread

TRAP = 2


def bucket(ns: int) -> int:
    """Return the bucket of a duration, computed from the definition.

    It is the first bucket whose bound is not below the duration. The bound of bucket i is 2^((i + FIRST_BOUND) / 4) s.
    Both sides are raised to the fourth power, which gives integers, so nothing is rounded.
    """
    for i in range(BUCKETS - 1):
        k = i + FIRST_BOUND
        left, right = ns**4, 10**36
        if left * 2**-k <= right if k < 0 else left <= right * 2**k:
            return i
    return BUCKETS - 1


def histogram(durations: Sequence[int]) -> tuple[int, ...]:
    """Return the expected count of each bucket for these durations."""
    counts = [0] * BUCKETS
    for ns in durations:
        counts[bucket(ns)] += 1
    return tuple(counts)


class Vcpu:
    """A named thread in which a test runs functions. Times are in ns of the test's clock."""

    def __init__(self, machine: Machine, comm: str) -> None:
        self._machine = machine
        self._runs: dict[str, TestRun] = {}
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, args=(comm,), daemon=True)
        self._thread.start()
        self.call(lambda: None)
        assert self._thread.native_id
        self.tid = self._thread.native_id

    def _loop(self, comm: str) -> None:
        name_thread(comm.encode())
        self._runs = {name: TestRun(fd) for name, fd in self._machine.loaded.programs.items()}
        while (work := self._work.get()) is not None:
            try:
                work()
                self._done.put(None)
            except BaseException as error:
                self._done.put(error)

    def call(self, work: Callable[[], object]) -> None:
        """Run `work` in the thread and wait for its end."""
        self.begin(work)
        self.finish()

    def begin(self, work: Callable[[], object]) -> None:
        """Start `work` in the thread; finish() waits for its end."""
        self._work.put(work)

    def finish(self) -> None:
        """Wait for the end of the work that begin() has started."""
        error = self._done.get(timeout=120)
        if error:
            raise error

    # The following methods may be called only in the thread itself.

    def run(self, program: str, now: int, *args: int) -> int:
        return self._runs[program](struct.pack("=11Q", *args, *[0] * (11 - len(args))) + struct.pack("=Q", now))

    def arm_exit(self, now: int, ret: int, esr_ec: int = 0) -> None:
        self.run("kvm_exit", now, ret, esr_ec, 0xFFFF800012345678)

    def euler_exit(self, now: int, ret: int, vcpu_id: int = 5) -> None:
        self.run("kvm_exit", now, vcpu_id, ret, 0xFFFF800012345678)

    def trap_enter(self, now: int, esr_ec: int, vcpu_id: int = 5) -> None:
        self.run("kvm_trap_enter", now, vcpu_id, esr_ec)

    def x86_exit(self, now: int, isa: int, reason: int, vcpu_id: int = 0) -> None:
        self.run("kvm_exit", now, reason, 0, isa, vcpu_id)

    def riscv_exit(self, now: int, scause: int, stval: int = 0) -> None:
        """Pass a struct kvm_cpu_trap. sepc, htval and htinst are those of a real exit; the program ignores them."""
        self.run("kvm_exit", now, 0x80000030, scause, stval, 0x4000000, 0)

    def entry(self, now: int) -> None:
        self.run("kvm_entry", now)

    def userspace_exit(self, now: int, reason: int, errno: int = 0) -> None:
        self.run("kvm_userspace_exit", now, reason, errno & 0xFFFFFFFFFFFFFFFF)

    def dies(self, now: int) -> None:
        """Run the program of sched_process_exit without ending the thread.

        Later events of this thread then stand for a reused tid.
        """
        self.run("sched_process_exit", now)

    def end(self) -> None:
        self._work.put(None)
        self._thread.join()


class Machine:
    """The program, its collector and the threads of one test."""

    def __init__(self, front: str, *, linger_ns: int = 300 * 10**9, **options: Any) -> None:
        request: dict[str, Any] = {"slots": 64, "cells": 1024, "clock_in_context": True, **options}
        defines = request.pop("defines", registry.BY_NAME[front].replay_defines)
        self.loaded = launcher.load(program.LoadRequest(front=front, defines=defines, attach=False, **request))
        self.now = 0
        self.collector = Collector(self.loaded, lambda: self.now, linger_ns)
        self._vcpus: list[Vcpu] = []

    def vcpu(self, comm: str = "CPU 0/KVM") -> Vcpu:
        vcpu = Vcpu(self, comm)
        self._vcpus.append(vcpu)
        return vcpu

    def collect(self) -> Snapshot:
        return self.collector.collect()

    def record(self, vcpu: Vcpu) -> VcpuRecord:
        """Return the only record of this thread."""
        (found,) = self.records(vcpu)
        return found

    def records(self, vcpu: Vcpu) -> list[VcpuRecord]:
        found = [record for record in self.collect().vcpus if record.key.tid == vcpu.tid]
        assert all(record.key.pid == os.getpid() for record in found)
        return found

    def close(self) -> None:
        for vcpu in self._vcpus:
            vcpu.end()
        self.collector.close()
        self.loaded.close()


def exits(record: VcpuRecord) -> dict[tuple[int, int], int]:
    """Return the number of exits by reason (space, code)."""
    result = {(cell.space, cell.code): cell.exits for cell in record.cells}
    assert len(result) == len(record.cells), "one reason has two cells"
    return result


def durations(record: VcpuRecord) -> dict[tuple[int, int], tuple[tuple[int, ...], int]]:
    """Return the buckets of the durations, and the sum of the durations in ns, by reason (space, code)."""
    return {(cell.space, cell.code): (cell.counts(), cell.sum_ns) for cell in record.cells}


def trap(esr_ec: int) -> tuple[int, int]:
    return (Space.ARM64_TRAP, esr_ec)
