"""The demo's recording through the real program: every recorded event counted, every interval as recorded."""

from __future__ import annotations

import gzip
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from exporter import program
from exporter.reasons import Reasons, Space
from exporter.records import VcpuRecord
from exporter.replay import recording, tracks
from exporter.replay.player import Player
from exporter.replay.rerun import rerun
from exporter.snapshot import Collector
from exporter.vms import identify
from tests.kernel.machine import histogram
from tests.recordings import from_ftrace

TRACE = from_ftrace.DEMO / "trace.txt.gz"

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
    recorded: recording.Recording, pids: list[int], records: Sequence[VcpuRecord]
) -> dict[int, VcpuRecord]:
    """Of the player's stand-ins: by the process, and the name of the thread."""
    by_name = {(record.key.pid, record.comm): record for record in records}
    stand_ins = {vm.pid: pid for vm, pid in zip(recorded.vms, pids)}
    return {
        tid: by_name[stand_ins[vm.pid], comm.encode()]
        for vm in from_ftrace.vms(from_ftrace.DEMO)
        for tid, comm in vm.comms.items()
        if comm.startswith("CPU ")
    }


def _seen(
    recorded: recording.Recording, records: dict[int, VcpuRecord]
) -> dict[tuple[str, int, str], tuple[int, tuple[int, ...], int]]:
    """Exits, buckets and sum by kind, recorded tid and reason."""
    names = Reasons(recorded.kvm_exit, recorded.kvm_userspace_exit)
    seen: dict[tuple[str, int, str], tuple[int, tuple[int, ...], int]] = {}
    for tid, record in records.items():
        for cell in record.cells:
            kind = "userspace" if cell.space in (Space.USERSPACE, Space.USERSPACE_ERRNO) else "exit"
            key = (kind, tid, names.lookup(cell.space, cell.code).name)
            assert key not in seen
            seen[key] = (cell.exits, cell.counts(), cell.sum_ns)
    return seen


@pytest.fixture
def replayed(loaded_now: Callable[..., program.Loaded]) -> program.Loaded:
    return loaded_now(
        program.Request(front="arm64", defines={}, slots=64, cells=512, attach=False, clock_in_context=True)
    )


def _equals_the_trace(
    recorded: recording.Recording, records: dict[int, VcpuRecord], counters: Mapping[str, int]
) -> None:
    counts, times = _truth(TRACE)
    assert sum(count for (kind, _, _), count in counts.items() if kind == "exit") == 38801
    assert len(records) == 5
    seen = _seen(recorded, records)
    assert {key: exits for key, (exits, _, _) in seen.items()} == counts
    assert {key: (counted, total) for key, (_, counted, total) in seen.items()} == {
        key: (histogram(times[key]), sum(times[key])) for key in counts
    }
    assert counters["unmatched_userspace_exit"] == 5  # each vCPU's first KVM_RUN, interrupted
    assert sum(counters.values()) == 5


def test_the_shipped_recording_is_the_trace(tmp_path: Path) -> None:
    """Nothing else is in it: neither an event nor a name."""
    from_ftrace.convert(from_ftrace.DEMO, tmp_path / "converted")
    shipped, converted = recording.read(recording.DEFAULT), recording.read(tmp_path / "converted")
    assert shipped == replace(converted, path=shipped.path)
    assert [_plain(runs) for runs in shipped.runs()] == [_plain(runs) for runs in converted.runs()]
    assert recording.DEFAULT.stat().st_size < 250_000  # the trace's text takes 863,179 bytes, gzipped


def _plain(runs: list[recording.Run]) -> list[object]:
    return [(run.thread.tid, run.thread.comm, run.times, run.events) for run in runs]


def test_one_pass_is_exactly_the_recording(replayed: program.Loaded) -> None:
    recorded = recording.read(recording.DEFAULT)
    player = Player(recorded, replayed.programs, speed=1000.0, endless=False)
    player.join()
    collector = Collector(replayed, lambda: 0, 10**18)
    snapshot = collector.collect()
    records = _by_recorded_tid(recorded, player.pids(), snapshot.vcpus)
    player.close()
    collector.close()
    assert len(snapshot.vcpus) == 5
    _equals_the_trace(recorded, records, snapshot.counters)


def test_a_rerun_is_exactly_the_recording(replayed: program.Loaded) -> None:
    recorded = recording.read(recording.DEFAULT)
    snapshot, vcpus = rerun(recorded, replayed)
    _equals_the_trace(recorded, {record.key.tid: record for record in snapshot.vcpus}, snapshot.counters)
    found = {
        (record.key.pid, record.key.tid, record.comm.decode(), vcpus[record.key].vm.name, vcpus[record.key].index)
        for record in snapshot.vcpus
    }
    assert found == {
        (141, 149, "CPU 0/KVM", "db-1", "0"),
        (141, 151, "CPU 1/KVM", "db-1", "1"),
        (142, 150, "CPU 0/KVM", "web-1", "0"),
        (142, 152, "CPU 1/KVM", "web-1", "1"),
        (143, 148, "CPU 0/KVM", "idle-1", "0"),
    }


def test_the_stand_ins_look_like_the_recorded_vms(replayed: program.Loaded) -> None:
    recorded = recording.read(recording.DEFAULT)
    player = Player(recorded, replayed.programs)
    traced = {vm.pid: vm for vm in from_ftrace.vms(from_ftrace.DEMO)}
    for vm, pid in zip(recorded.vms, player.pids()):
        assert identify(pid, Path("/proc")) == replace(vm, pid=pid)
        assert Path(f"/proc/{pid}/comm").read_text() == "qemu-system-aar\n"
        vcpus = sorted(comm for comm in traced[vm.pid].comms.values() if comm.startswith("CPU "))
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
    duration_ns = recorded.last_ns - recorded.first_ns
    for vm in range(len(recorded.vms)):
        for track in tracks.read(recorded, vm):
            stream = tracks.passes(track, duration_ns, endless=True)
            state, last, wrong = "", -1, 0
            for _ in range(3 * len(track)):
                call = next(stream)
                assert call.ns >= last
                last = call.ns
                if call.program == "kvm_userspace_exit":
                    wrong += state != "kvm_exit"
                else:
                    wrong += call.program == state
                    state = call.program
            assert wrong == 1
