"""`top` runs with the real programs. Its tables are exact for known primes, the demo and this kernel's events."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.kernel import time_split
from exporter.kernel.btf import KernelBtf
from exporter.kernel.isa import registry
from exporter.model.vm import Vcpu, Vm
from exporter.naming.reasons import ReasonNames
from exporter.readings import document
from exporter.readings.difference import between
from exporter.readings.grouping import grouped, ordered
from exporter.readings.reading import EXIT, Reading, nothing, reading_of
from exporter.terminal.table import table
from tests.support.kvm import run_interrupted
from tests.support.machine import TRAP, Machine
from tests.support.paths import ROOT
from tests.support.readable import PYTHON
from tests.support.services import Service

Start = Callable[..., Service]

HVC64, DABT_LOW, WFX = 0x16, 0x24, 0x01  # arch/arm64/include/asm/esr.h


def _reading(machine: Machine) -> Reading:
    vm = Vm(os.getpid(), "web-1", "", "qemu")
    return reading_of(machine.collect(), lambda _: Vcpu(vm, "0"), ReasonNames().lookup, since_ns=1, replay=False)


def test_known_events_give_the_exact_table(machine: Callable[..., Machine]) -> None:
    """The vCPU has 101 hypercalls of 1009 ns, 211 stores of 50021 ns, 7 sleeps, and then a store that has not ended.

    Then the same events occur again.
    """
    loaded = machine()
    vcpu = loaded.vcpu("CPU 0/KVM")

    def work() -> None:
        vcpu.entry(loaded.now)
        for code, times, ns in ((HVC64, 101, 1009), (DABT_LOW, 211, 50_021), (WFX, 7, 10**9)):
            for _ in range(times):
                loaded.now += 10_000
                vcpu.arm_exit(loaded.now, TRAP, code)
                loaded.now += ns
                vcpu.entry(loaded.now)
        loaded.now += 10_000
        vcpu.arm_exit(loaded.now, TRAP, DABT_LOW)
        loaded.now += 500_000

    expected = """\
TGID     TID      COMM             KVM_EXIT_REASON               COUNT AVG_TIME (ns)
{pid:<8} {tid:<8} CPU 0/KVM        EC_DABT_LOW                     212         {average}
{pid:<8} {tid:<8} CPU 0/KVM        EC_HVC64                        101          1009
{pid:<8} {tid:<8} CPU 0/KVM        EC_WFx                            7    1000000000
"""
    vcpu.call(work)
    first = _reading(loaded)
    whole = table(ordered(grouped(between(nothing(1), first))))
    assert whole == expected.format(pid=os.getpid(), tid=vcpu.tid, average=50_021)

    def again() -> None:
        vcpu.entry(loaded.now)  # ends the unfinished store after 500 us
        work()

    vcpu.call(again)
    second = _reading(loaded)
    # The first entry in work() changes nothing, because the vCPU is already in the guest.
    average = (211 * 50_021 + 500_000) // 212
    half = table(ordered(grouped(between(first, second))))
    assert half == expected.format(pid=os.getpid(), tid=vcpu.tid, average=average)


def _top(
    *arguments: str, python: str = sys.executable, folder: Path = ROOT, **more: object
) -> subprocess.CompletedProcess[str]:
    said = subprocess.run(  # type: ignore[call-overload]
        [python, "-m", "exporter", "top", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        **more,
    )
    assert "Traceback" not in said.stderr
    return said  # type: ignore[no-any-return]


def _url(service: Service) -> str:
    return "http://" + service.logged(r"msg=listening address=(\S+)")[1]


@pytest.fixture
def demo(start: Start) -> Service:
    demo = start("demo", "--speed", "50")
    demo.logged("replaying")
    return demo


def test_the_counts_of_the_json_and_of_the_metrics_agree(demo: Service) -> None:
    """Each count on /metrics lies between the counts of /-/vcpus before and after it."""
    wanted = [("db-1", "0"), ("db-1", "1"), ("idle-1", "0"), ("web-1", "0"), ("web-1", "1")]
    deadline = time.monotonic() + 60
    while True:  # wait until each vCPU has its first event and its name
        now = document.decode(demo.get("/-/vcpus").encode())
        if sorted((each.vm or "", each.vcpu) for each in now.vcpus) == wanted:
            break
        assert time.monotonic() < deadline
    assert now.replay
    exits = {(labels["tid"], labels["reason"]): value for labels, value in demo.scrape()["kvm_exits_total"]}
    later = document.decode(demo.get("/-/vcpus").encode())
    after = {
        (thread.key, counted.kind, counted.reason): counted.exits
        for thread in later.vcpus
        for counted in thread.reasons
    }
    for thread in now.vcpus:
        for counted in thread.reasons:
            then = after[thread.key, counted.kind, counted.reason]
            if counted.kind == EXIT:
                assert counted.exits <= exits[str(thread.key.tid), counted.reason] <= then
                assert counted.exits - sum(counted.buckets.values()) in (0, 1)
    assert later.taken_ns > now.taken_ns
    assert later.since_ns == now.since_ns


def test_the_live_view_shows_the_demo(demo: Service) -> None:
    pytest.importorskip("pyte")
    from tests.support.pty_screen import Terminal

    top = Terminal("top", "--source", "exporter", "--url", _url(demo), "-i", "0.3", columns=120, height=50)
    try:
        names = {"web-1", "db-1", "idle-1"}
        lines = top.wait(
            lambda lines: {line.split()[0] for line in lines[4:-1] if line} == names and " EC_WFx " in "".join(lines)
        )
        assert "(a replay)" in lines[0]
        assert lines[1].startswith("5 vCPUs  ")
        idle = [line for number, line in enumerate(lines[4:-1], 4) if line and top.dim()[number]]
        assert idle
        assert all(" EC_WFx " in line for line in idle)
        top.send("2")
        top.wait(lambda lines: "by VM" in lines[2])
        top.send("q")
        status, _, after = top.end()
        assert status == 0
        assert re.search(r"(?m)^\d+ +\d+ +CPU 0/KVM +EC_DABT_LOW +\d+ +\d+$", after)
        assert top.restored()
    finally:
        top.close()


def _live_and_die(times: int) -> int:
    thread = threading.Thread(target=run_interrupted, args=(times,))
    thread.start()
    thread.join()
    assert thread.native_id
    return thread.native_id


class Counting:
    """A running `top`. It counts until table() interrupts it."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "exporter", "top", *arguments, "-p", str(os.getpid()), "--userspace"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stderr
        self.said = self.process.stderr.readline()
        self.process.stderr.readline()

    def table(self) -> list[list[str]]:
        self.process.send_signal(2)
        out, err = self.process.communicate(timeout=60)
        assert (self.process.returncode, err) == (0, "")
        return [line.split() for line in out.splitlines()[1:]]


@pytest.mark.kvm
def test_both_sources_count_the_same_real_events(start: Start) -> None:
    """An exporter and top's programs count the same threads. The threads start and end during the run."""
    serve = start("serve")
    serve.logged("msg=attached")
    before = _live_and_die(53)
    own = Counting("--source", "own")
    reading = Counting("--url", _url(serve))
    assert own.said == "kvm-exit-exporter top: counting with own BPF programs\n"
    assert "which runs already" in reading.said
    tids = {_live_and_die(times): times for times in (101, 211)}
    expected = {str(tid): ["CPU", "3/KVM", "restart", str(times), "-"] for tid, times in tids.items()}
    assert str(before) not in expected
    for counting in (own, reading):
        rows = counting.table()
        assert {row[1]: row[2:] for row in rows} == expected
        assert {row[0] for row in rows} == {str(os.getpid())}
    assert serve.value("kvm_exit_exporter_up") == 1


@pytest.mark.kvm
def test_without_an_exporter_top_counts_with_its_own_programs() -> None:
    said = _top("0.3", "--json", "--url", "http://127.0.0.1:1")
    assert said.returncode == 0
    assert said.stderr.splitlines()[0] == (
        "kvm-exit-exporter top: counting with own BPF programs: no answer from http://127.0.0.1:1: Connection refused"
    )
    made = json.loads(said.stdout)
    assert (made["source"], made["replay"]) == ("own BPF programs", False)


@pytest.mark.kvm
def test_without_privileges_top_can_only_read_an_exporter(start: Start, readable: Path) -> None:
    """The refusal of top's own programs is reported in one line. Every user can read from an exporter."""
    user = {"user": 65534, "group": 65534, "extra_groups": []}
    as_nobody = functools.partial(_top, python=PYTHON, folder=readable, **user)
    said = as_nobody("0.1", "--url", "http://127.0.0.1:1")
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (1, "", 1)
    assert "run as root" in said.stderr
    demo = start("demo", "--speed", "50")
    demo.logged("replaying")
    said = as_nobody("0.3", "--source", "exporter", "--url", _url(demo))
    assert (said.returncode, said.stdout.startswith("TGID")) == (0, True)


def test_where_the_time_went_is_in_the_reading(machine: Callable[..., Machine]) -> None:
    """The thread sleeps in three exits for at least 10 ms each. The reading has the parts that the maps have."""
    defines = {**registry.BY_NAME["arm64"].replay_defines, **time_split.offsets(KernelBtf(Path("/sys")))}
    for split in (True, False):
        loaded = machine(time_split=split, defines=defines)
        vcpu = loaded.vcpu("CPU 0/KVM")

        def work() -> None:
            vcpu.entry(time.monotonic_ns())
            for _ in range(3):
                vcpu.arm_exit(time.monotonic_ns(), TRAP, DABT_LOW)
                time.sleep(0.01)
                vcpu.entry(time.monotonic_ns())

        vcpu.call(work)
        read = document.decode(b"".join(document.encode(_reading(loaded))))
        record = loaded.record(vcpu)
        (cell,) = record.cells
        (seen,) = between(nothing(1), read).vcpus
        (row,) = seen.rows
        assert (row.exits, row.completed, row.sum_ns) == (3, 3, cell.sum_ns)
        assert row.parts == (cell.parts if split else None)
        assert seen.wait_ns == (cell.parts.wait if split else None)
        assert (cell.parts.sleep >= 30_000_000) == split
