"""The demo's recording is replayed through the real program: every event is counted, and every interval is exact."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest

from exporter.collect.collector import Collector
from exporter.kernel import program
from exporter.model.reason import Space
from exporter.model.records import VcpuRecord
from exporter.model.vm import Vm
from exporter.naming.identity import identify
from exporter.naming.reasons import ReasonNames
from exporter.naming.vmm import registry
from exporter.recording import recording, tracks
from exporter.recording.command_line import command_line
from exporter.recording.events import Event, Kind
from exporter.recording.plan import plan_of
from exporter.recording.player import Player
from exporter.recording.rerun import rerun
from exporter.recording.writer import Writer
from tests.recordings import from_ftrace
from tests.support.machine import histogram
from tests.support.trace import TRACE, truth


def _by_recorded_tid(
    recorded: recording.Recording, pids: list[int], records: Sequence[VcpuRecord]
) -> dict[int, VcpuRecord]:
    """Return the records of the player's stand-ins by their recorded tids.

    The names of process and thread tell which tid a record has.
    """
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
    """Return exits, buckets and sum by (kind, recorded tid, reason)."""
    names = ReasonNames(recorded.kvm_exit, recorded.kvm_userspace_exit)
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
        program.LoadRequest(front="arm64", defines={}, slots=64, cells=512, attach=False, clock_in_context=True)
    )


def _equals_the_trace(
    recorded: recording.Recording, records: dict[int, VcpuRecord], counters: Mapping[str, int]
) -> None:
    counts, times = truth(TRACE)
    assert sum(count for (kind, _, _), count in counts.items() if kind == "exit") == 38801
    assert len(records) == 5
    seen = _seen(recorded, records)
    assert {key: exits for key, (exits, _, _) in seen.items()} == counts
    assert {key: (counted, total) for key, (_, counted, total) in seen.items()} == {
        key: (histogram(times[key]), sum(times[key])) for key in counts
    }
    assert counters["unmatched_userspace_exit"] == 5  # the first KVM_RUN of each vCPU was interrupted
    assert sum(counters.values()) == 5


def test_the_shipped_recording_equals_the_trace(tmp_path: Path) -> None:
    """Recording and trace have the same events and the same names."""
    from_ftrace.convert(from_ftrace.DEMO, tmp_path / "converted")
    shipped, converted = recording.read(recording.DEFAULT), recording.read(tmp_path / "converted")
    assert shipped == replace(converted, file=shipped.file)
    assert [_plain(runs) for runs in shipped.runs()] == [_plain(runs) for runs in converted.runs()]
    assert recording.DEFAULT.stat().st_size < 250_000  # the trace's text still takes 863,179 bytes after gzip


def _plain(runs: list[recording.EventRun]) -> list[object]:
    return [(run.thread.tid, run.thread.comm, run.times, run.events) for run in runs]


def test_one_pass_of_the_player_counts_exactly_the_events_of_the_trace(replayed: program.Loaded) -> None:
    recorded = recording.read(recording.DEFAULT)
    player = Player(plan_of(recorded), replayed.programs, speed=1000.0, endless=False)
    player.join()
    collector = Collector(replayed, lambda: 0, 10**18)
    snapshot = collector.collect()
    records = _by_recorded_tid(recorded, player.pids(), snapshot.vcpus)
    player.close()
    collector.close()
    assert len(snapshot.vcpus) == 5
    _equals_the_trace(recorded, records, snapshot.counters)


def test_a_rerun_counts_exactly_the_events_of_the_trace(replayed: program.Loaded) -> None:
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


def test_the_stand_ins_have_the_names_of_the_recorded_vms(replayed: program.Loaded) -> None:
    recorded = recording.read(recording.DEFAULT)
    player = Player(plan_of(recorded), replayed.programs)
    traced = {vm.pid: vm for vm in from_ftrace.vms(from_ftrace.DEMO)}
    for vm, pid in zip(recorded.vms, player.pids()):
        assert identify(pid, Path("/proc")).vm == replace(vm, pid=pid)
        assert Path(f"/proc/{pid}/comm").read_text() == "qemu-system-aar\n"
        vcpus = sorted(comm for comm in traced[vm.pid].comms.values() if comm.startswith("CPU "))
        deadline = time.monotonic() + 60
        while vcpus != sorted(filter(lambda comm: comm.startswith("CPU "), _comms(pid))):
            assert time.monotonic() < deadline
    player.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in player.pids())


def _comms(pid: int) -> list[str]:
    return [path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm")]


def test_only_the_first_pass_of_a_replay_may_have_unmatched_events() -> None:
    """Each pass ends with an entry, and the next pass starts with an exit. So these two events match."""
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


def _replay(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "exporter", "replay", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_table_has_the_numbers_of_the_trace() -> None:
    """The table has every reason of every vCPU, with the recorded ids and names, the count and the mean duration."""
    counts, times = truth(TRACE)
    said = _replay(str(recording.DEFAULT), "--sort=count")
    assert (said.returncode, said.stderr) == (0, "")
    heading, *lines = said.stdout.splitlines()
    assert heading.split() == ["TGID", "TID", "COMM", "KVM_EXIT_REASON", "COUNT", "AVG_TIME", "(ns)"]
    found = [re.fullmatch(r"(\d+) +(\d+) +(CPU \d/KVM) +(\S+) +(\d+) +(\d+|-)", line) for line in lines]
    vms = {tid: (vm.pid, comm) for vm in from_ftrace.vms(from_ftrace.DEMO) for tid, comm in vm.comms.items()}
    expected = {
        (str(vms[tid][0]), str(tid), vms[tid][1], reason, str(count), str(sum(ended) // len(ended)) if ended else "-")
        for (kind, tid, reason), count in counts.items()
        for ended in [times.get((kind, tid, reason))]
        if kind == "exit"
    }
    assert {match.groups() for match in found if match} == expected
    assert len(lines) == len(expected)
    in_order = sorted(expected, key=lambda row: (row[3] == "EC_WFx", -int(row[4])))  # idle reasons come last
    assert [int(match[5]) for match in found if match] == [int(row[4]) for row in in_order]


def test_filters_select_the_rows_of_one_vcpu() -> None:
    said = _replay(str(recording.DEFAULT), "--vm=web-1", "--vcpu=1", "--userspace", "--csv")
    assert (said.returncode, said.stderr) == (0, "")
    counts, _ = truth(TRACE)
    rows = list(csv.DictReader(said.stdout.splitlines()))
    assert {(row["tid"], row["vm"], row["vcpu"], row["reason"], int(row["count"])) for row in rows} == {
        ("152", "web-1", "1", reason, count)
        for (kind, tid, reason), count in counts.items()
        if (kind, tid) == ("userspace", 152)
    }


@pytest.mark.parametrize("begun", ["", "libbcc"])
def test_ctrl_c_ends_replay_and_loader_while_the_program_is_loaded(begun: str) -> None:
    """A terminal sends SIGINT to the foreground process group, and so does the test.

    The status is 130, the output is empty, and the loader ends.
    """
    command = [sys.executable, "-m", "exporter", "replay", str(recording.DEFAULT)]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (loader := children.read_text().split()) or begun not in Path(f"/proc/{loader[0]}/maps").read_text():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 130
    deadline = time.monotonic() + 60
    while Path(f"/proc/{loader[0]}/exe").exists():
        assert time.monotonic() < deadline


@pytest.mark.parametrize("moment", ["recording.read", "rerun._ReplayThread.play", "report.text"])
def test_ctrl_c_ends_replay_without_output(moment: str) -> None:
    """There is also no output if a second Ctrl-C comes while `replay` ends its threads."""
    interrupted = (
        "import os, runpy, signal, sys\n"
        "from exporter.recording import recording, rerun\n"
        "from exporter.terminal import report\n"
        f"real = {moment}\n"
        "def then(*arguments, **options):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(*arguments, **options)\n"
        f"{moment} = then\n"
        "def end(worker):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "rerun._ReplayThread.end = end\n"
        f"sys.argv = ['exporter', 'replay', {str(recording.DEFAULT)!r}]\n"
        "runpy.run_module('exporter', run_name='__main__')\n"
    )
    said = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, check=False, timeout=60)
    assert (said.returncode, said.stdout, said.stderr) == (130, b"", b"")


def test_replay_reports_the_events_that_the_recording_lost(tmp_path: Path) -> None:
    path = tmp_path / "lost.kvmrec"
    with path.open("wb") as out:
        writer = Writer(out, from_ftrace.header(from_ftrace.DEMO))
        writer.losses(5, 9, {Kind.EXIT: 17, Kind.ENTRY: 19})
        writer.close([], [], "duration")
    said = _replay(str(path))
    assert said.returncode == 0
    assert said.stderr.splitlines() == [
        "kvm-exit-exporter replay: 36 events were lost during the recording (exit 17, entry 19): "
        "the counts are too low by this number",
        "kvm-exit-exporter replay: no exit was seen: the recording has none",
    ]


def test_each_pass_has_a_new_thread_for_a_recorded_thread_that_ends(
    loaded_now: Callable[..., program.Loaded], tmp_path: Path
) -> None:
    """Passes of 50 ms repeat without end.

    The thread that ends has one record for each pass. The other thread has one record for all passes. The pools are
    large enough for a minute of passes without a collection.
    """
    request = program.LoadRequest(
        front="arm64", defines={}, slots=2048, cells=4096, attach=False, clock_in_context=True
    )
    replayed = loaded_now(request)
    path = tmp_path / "ends.kvmrec"
    ms = 1_000_000
    happened = []
    for tid, comm in ((43, b"CPU 0/KVM"), (44, b"CPU 1/KVM")):
        happened.append((ms, Event(Kind.THREAD, tid, 41, comm=comm)))
        for number in range(7):
            happened.append((ms + number * ms, Event(Kind.EXIT, tid, 41, Space.ARM64_TRAP, 0x16)))
            happened.append((ms + number * ms + 1000, Event(Kind.ENTRY, tid, 41)))
    happened.append((51 * ms, Event(Kind.THREAD_END, 43, 41)))
    from_ftrace.write(path, from_ftrace.header(from_ftrace.DEMO), [Vm(41, "ends", "", "qemu")], happened)
    player = Player(plan_of(recording.read(path)), replayed.programs)
    collector = Collector(replayed, player.clock_ns, 10**18)
    deadline = time.monotonic() + 60
    ended: list[VcpuRecord] = []
    lasting: list[VcpuRecord] = []
    while len(ended) < 5 or not lasting:
        assert time.monotonic() < deadline
        records = collector.collect().vcpus
        ended = [found for found in records if found.comm == b"CPU 0/KVM" and not found.alive]
        lasting = [found for found in records if found.comm == b"CPU 1/KVM"]
        time.sleep(0.01)
    player.close()
    assert {sum(cell.exits for cell in found.cells) for found in ended} == {7}
    assert {cell.sum_ns for found in ended for cell in found.cells} == {7000}
    assert len(lasting) == 1
    counters = collector.collect().counters
    collector.close()
    assert not any(counters.values())


@pytest.mark.parametrize("vmm", [vmm.label for vmm in registry.VMMS])
def test_the_command_line_of_a_stand_in_identifies_the_vm(tmp_path: Path, vmm: str) -> None:
    uuid = "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0001" if vmm in ("qemu", "cloud-hypervisor") else ""
    wanted = Vm(41, "web-1,x", uuid, vmm)
    argv = command_line(wanted, "aarch64")
    (tmp_path / "41").mkdir()
    (tmp_path / "41" / "cmdline").write_bytes(b"".join(argument.encode() + b"\0" for argument in argv))
    assert identify(41, tmp_path).vm == wanted
