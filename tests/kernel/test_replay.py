"""The demo's recording through the real program: every recorded event counted, every interval as recorded."""

from __future__ import annotations

import gzip
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter import program
from exporter.reasons import Reasons, Space
from exporter.records import VcpuRecord
from exporter.replay import recording
from exporter.replay.player import Player
from exporter.snapshot import Collector
from tests.kernel.machine import histogram

_LINE = re.compile(r" *(CPU ./KVM)-(\d+) .* (\d+)\.(\d{6}): (kvm_exit|kvm_entry|kvm_userspace_exit): (.*)")
_NAMES = {"IRQ": "IRQ", "TRAP: HSR_EC: 0x0000 ": "UNKNOWN_EC"}


def _truth(path: Path) -> tuple[Counter[tuple[str, int, str]], dict[tuple[str, int, str], list[int]]]:
    """Counts and durations of the trace, worked out from its text alone."""
    counts: Counter[tuple[str, int, str]] = Counter()
    times: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    out: dict[int, list[tuple[str, int, str]]] = {}
    since: dict[int, int] = {}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        tid, now = int(match[2]), int(match[3] + match[4]) * 1000
        if match[5] == "kvm_exit":
            kind, trap = re.match(r"(\w+): HSR_EC: 0x\w+ \((\w+)\)", match[6]).groups()  # type: ignore[union-attr]
            key = ("exit", tid, f"EC_{trap}" if kind == "TRAP" else kind)
            counts[key] += 1
            out[tid], since[tid] = [key], now
        elif match[5] == "kvm_userspace_exit":
            key = ("userspace", tid, match[6].split()[1])
            counts[key] += 1
            if len(out.get(tid, [])) == 1:
                out[tid].append(key)
        else:
            for key in out.pop(tid, []):
                times[key].append(now - since[tid])
    return counts, times


def _by_recorded_tid(
    recorded: recording.Recording, pids: list[int], records: list[VcpuRecord]
) -> dict[int, VcpuRecord]:
    result = {}
    for vm, pid in zip(recorded.vms, pids):
        for tid, comm in vm.comms.items():
            found = [record for record in records if record.key.pid == pid and record.comm.decode() == comm]
            if found:
                (result[tid],) = found
    return result


@pytest.fixture
def replayed(loaded_now: Callable[..., program.Loaded]) -> program.Loaded:
    return loaded_now(
        program.Request(front="arm64", defines={}, slots=64, cells=512, attach=False, clock_in_context=True)
    )


def test_one_pass_is_exactly_the_recording(replayed: program.Loaded) -> None:
    recorded = recording.read(recording.DEFAULT)
    counts, times = _truth(recording.DEFAULT / "trace.txt.gz")
    assert sum(count for (kind, _, _), count in counts.items() if kind == "exit") == 38801
    player = Player(recorded, replayed.programs, speed=1000.0, endless=False)
    player.join()
    collector = Collector(replayed, lambda: 0, 10**18)
    records = collector.collect()
    names = Reasons(recorded.kvm_exit, recorded.kvm_userspace_exit)
    seen: dict[tuple[str, int, str], tuple[int, tuple[int, ...], int]] = {}
    for tid, record in _by_recorded_tid(recorded, player.pids(), list(records.vcpus)).items():
        for cell in record.cells:
            kind = "userspace" if cell.space in (Space.USERSPACE, Space.USERSPACE_ERRNO) else "exit"
            key = (kind, tid, names.lookup(cell.space, cell.code).name)
            assert key not in seen
            seen[key] = (cell.exits, cell.counts(), cell.sum_ns)
    player.close()
    collector.close()
    assert len(records.vcpus) == 5
    assert {key: exits for key, (exits, _, _) in seen.items()} == counts
    assert {key: (counted, total) for key, (_, counted, total) in seen.items()} == {
        key: (histogram(times[key]), sum(times[key])) for key in counts
    }
    assert records.counters["unmatched_userspace_exit"] == 5  # each vCPU's first KVM_RUN, interrupted
    assert sum(records.counters.values()) == 5


def test_the_stand_ins_look_like_the_recorded_vms(replayed: program.Loaded) -> None:
    recorded = recording.read(recording.DEFAULT)
    player = Player(recorded, replayed.programs)
    for vm, pid in zip(recorded.vms, player.pids()):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        assert [argument.decode() for argument in arguments] == list(vm.argv)
        assert Path(f"/proc/{pid}/comm").read_text() == "qemu-system-aar\n"
        vcpus = sorted(comm for comm in vm.comms.values() if comm.startswith("CPU "))
        deadline = time.monotonic() + 10
        while vcpus != sorted(filter(lambda comm: comm.startswith("CPU "), _comms(pid))):
            assert time.monotonic() < deadline
    player.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in player.pids())


def _comms(pid: int) -> list[str]:
    return [path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm")]


def test_a_later_pass_invents_nothing() -> None:
    """Each pass after the first starts at an exit, and the one before was ended by an entry."""
    recorded = recording.read(recording.DEFAULT)
    for vm in recorded.vms:
        events = recording.read_events(recorded, vm)
        for thread in events.by_tid.values():
            stream = recording.passes(thread, events.duration_ns, endless=True)
            state, last, wrong = "", -1, 0
            for _ in range(3 * len(thread)):
                event = next(stream)
                assert event.ns >= last
                last = event.ns
                if event.program == "kvm_userspace_exit":
                    wrong += state != "kvm_exit"
                else:
                    wrong += event.program == state
                    state = event.program
            assert wrong == 1
