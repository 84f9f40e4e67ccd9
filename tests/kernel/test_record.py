"""The recording program writes every event or counts it as lost.

A replay gives the same numbers as the counting program.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from exporter.commands import record
from exporter.commands.record import RecordOptions
from exporter.config.options import Config
from exporter.kernel import launcher, program, syscall
from exporter.kernel.isa import registry
from exporter.model.reason import Space
from exporter.model.records import RunStats, ThreadKey, VcpuRecord
from exporter.recording import blocks, recorder, recording
from exporter.recording.events import COUNTED, Kind
from exporter.recording.recorder import Recorder
from exporter.recording.rerun import rerun
from exporter.recording.ring import Ring
from exporter.recording.writer import RecordingHeader, Writer, create
from tests.recordings import from_ftrace
from tests.support.kvm import run_interrupted
from tests.support.machine import TRAP, Machine, Vcpu
from tests.support.paths import FORMATS

RING = 1 << 20
KERNELS = {
    "arm64_openeuler": ("aarch64-openeuler-5.10", "aarch64"),
    "riscv64": ("riscv64-6.12", "riscv64"),
    "x86": ("x86_64-svm-6.12", "x86_64"),
}
"""The kernel whose formats a recording of this front has, and its machine."""
RISCV_TRAPS = ((1 << 63 | 5, 0), (21, 0x10000000), (22, 0x10500073), (22, 0x00D00073), (22, 0xC0102073), (22, 0))
EINTR = 4


def _header(front: str) -> RecordingHeader:
    if front == "arm64":
        return from_ftrace.header(from_ftrace.DEMO)
    kernel, machine = KERNELS[front]
    texts = [(FORMATS / kernel / f"{name}.format").read_text() for name in ("kvm_exit", "kvm_userspace_exit")]
    return RecordingHeader("6.12", machine, "0", None, 0, *texts)


class Recorded:
    """A recording program without tracepoints.

    The test runs it by hand, as tests/support/machine.py runs the counting program.
    """

    def __init__(self, path: Path, front: str = "arm64", ring_bytes: int = RING, **options: Any) -> None:
        front_defines = registry.BY_NAME[front].replay_defines
        defines = {"RING_BYTES": ring_bytes, **front_defines, **options.pop("defines", {})}
        request = program.LoadRequest(
            kind="recording",
            front=front,
            defines=defines,
            slots=options.pop("slots", 64),
            cells=0,
            attach=False,
            clock_in_context=True,
        )
        self.path = path
        proc = options.pop("proc", Path("/proc"))
        self.loaded = launcher.load(request)
        self._file = create(path, force=True)
        self.writer = Writer(self._file, _header(front))
        self.now = 0
        self.ring = Ring(self.loaded.maps["events"], ring_bytes)
        self.recorder = Recorder(self.loaded, self.ring, self.writer, proc, clock_ns=lambda: self.now, **options)
        self._vcpus: list[Vcpu] = []

    def vcpu(self, comm: str = "CPU 0/KVM") -> Vcpu:
        self._vcpus.append(Vcpu(self, comm))  # type: ignore[arg-type] # it uses only the machine's programs
        return self._vcpus[-1]

    def take(self) -> None:
        """Read all events from the ring."""
        while self.ring.pending():
            self.recorder.take()

    def read(self) -> recording.Recording:
        """Finish the recording, read its file, and return the recording."""
        self.take()
        self.recorder.finish("test")
        self._file.close()
        return recording.read(self.path)

    def close(self) -> None:
        for vcpu in self._vcpus:
            vcpu.end()
        self.recorder.close()
        self.ring.close()
        self.loaded.close()
        self._file.close()


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Recorded]]:
    monkeypatch.setattr(recorder, "_IDENTITY_SECONDS", 60.0)  # on a busy machine, look-ups must not time out
    with ExitStack() as stack:
        numbers = itertools.count()

        def make(*arguments: Any, **options: Any) -> Recorded:
            made = Recorded(tmp_path / f"{next(numbers)}.kvmrec", *arguments, **options)
            stack.callback(made.close)
            return made

        yield make


def _exit(vcpu: Vcpu, front: str, now: int, number: int) -> None:
    if front == "x86":
        vcpu.x86_exit(now, Space.SVM, 0x60 + number % 13, 5)
    elif front == "arm64_openeuler":
        ret = (TRAP, 0, TRAP, 0x80000001, 0x80000002)[number % 5]
        vcpu.euler_exit(now, ret)
        if ret == TRAP:
            vcpu.trap_enter(now + 20, number % 17)
    elif front == "riscv64":
        vcpu.riscv_exit(now, *RISCV_TRAPS[number % len(RISCV_TRAPS)])
    else:
        vcpu.arm_exit(now, (TRAP, 0, TRAP, 0x80000001)[number % 4], number % 17)


def _enter(vcpu: Vcpu, times: Iterable[int]) -> None:
    """Let the vCPU enter its guest at each of these times."""

    def enter() -> None:
        for now in times:
            vcpu.entry(now)

    vcpu.call(enter)


def _play(vcpu: Vcpu, front: str, seed: int, rounds: int) -> None:
    """Run exits. An entry follows most of them, some return to user space, and some events do not match."""
    chance = random.Random(seed)
    now = seed + 1
    vcpu.userspace_exit(now, 10, -EINTR)
    for number in range(rounds):
        now += chance.randrange(10 ** chance.randrange(3, 9))
        _exit(vcpu, front, now, number)
        for _ in range(chance.choice((0, 0, 0, 1, 2))):
            now += 50
            vcpu.userspace_exit(now, 6 + number % 5, chance.choice((0, 0, -EINTR)))
        now += chance.randrange(10**6)
        if chance.random() < 0.97:
            vcpu.entry(now)
    vcpu.dies(now + 1)


def _plain(found: VcpuRecord) -> tuple[object, ...]:
    cells = sorted((cell.space, cell.code, cell.exits, cell.sum_ns, cell.buckets) for cell in found.cells)
    return found.key.born_ns, found.comm, found.vcpu_id, found.totals, cells, found.in_progress, found.alive


@pytest.mark.parametrize("front", ["arm64", "arm64_openeuler", "riscv64", "x86"])
def test_a_replay_gives_the_same_counts_as_counting(
    recorded: Callable[..., Recorded],
    machine: Callable[..., Machine],
    loaded_now: Callable[..., program.Loaded],
    front: str,
) -> None:
    """Both programs get the same events. Then a new counting program replays the recording."""
    counting, recording_ = machine(front), recorded(front)
    for on in (counting, recording_):
        for number, rounds in ((3, 5003), (4, 1009), (5, 101)):
            vcpu = on.vcpu(f"CPU {number}/KVM")
            vcpu.call(lambda: _play(vcpu, front, number, rounds))
        alive = on.vcpu("CPU 6/KVM")
        alive.call(lambda: alive.entry(7))
        alive.call(lambda: _exit(alive, front, 1009, 1))
    read = recording_.read()
    assert not any(read.lost.values())
    assert [vcpu.index for vcpu in read.vcpus] == ["3", "4", "5", "6"]
    counting.now = read.last_ns
    wanted = counting.collect()
    request = program.replay_request(read.kvm_exit, slots=64, cells=1024)
    snapshot, vcpus = rerun(read, loaded_now(request))
    assert sorted(map(_plain, snapshot.vcpus), key=str) == sorted(map(_plain, wanted.vcpus), key=str)
    assert snapshot.counters == wanted.counters
    assert snapshot.counters["unmatched_exit"] > 0
    assert {key.tid for key in vcpus} == {vcpu.tid for vcpu in recording_._vcpus}
    assert {key.pid for key in vcpus} == {os.getpid()}


def test_the_index_in_a_recording_is_the_one_of_the_name_else_the_vcpu_id(recorded: Callable[..., Recorded]) -> None:
    made = recorded("x86")
    for comm, vcpu_id in (("CPU 6/KVM", 8), ("qemu-system-x86", 8)):
        vcpu = made.vcpu(comm)
        vcpu.call(lambda: vcpu.x86_exit(5, Space.SVM, 0x60, vcpu_id))
    assert [vcpu.index for vcpu in made.read().vcpus] == ["6", "8"]


def test_an_exit_whose_class_comes_later_is_recorded_once_with_its_own_time(recorded: Callable[..., Recorded]) -> None:
    """openEuler's arm64 kernels. The last exit waits for its class when the recording ends: it is not recorded."""
    made = recorded("arm64_openeuler")
    vcpu = made.vcpu("CPU 6/KVM")

    def play() -> None:
        for number in range(7):
            vcpu.euler_exit(1000 * number, TRAP, vcpu_id=6)
            vcpu.trap_enter(1000 * number + 100, number, vcpu_id=6)
            vcpu.entry(1000 * number + 200)
        vcpu.euler_exit(7000, TRAP, vcpu_id=6)
        vcpu.euler_exit(7300, TRAP, vcpu_id=6)
        vcpu.dies(7500)
        vcpu.euler_exit(8000, TRAP, vcpu_id=6)

    vcpu.call(play)
    read = made.read()
    events = [item for runs in read.runs() for run in runs for item in zip(run.times, run.events)]
    found = [(ns, event.space, event.code, event.vcpu_id) for ns, event in events if event.kind == Kind.EXIT]
    without = [(ns, Space.ARM64_RET, TRAP, 6) for ns in (7000, 7300)]
    assert found == [*((1000 * number, Space.ARM64_TRAP, number, 6) for number in range(7)), *without]
    assert [ns for ns, event in events if event.kind == Kind.ENTRY] == [1000 * number + 200 for number in range(7)]
    assert [ns for ns, event in events if event.kind == Kind.THREAD_END] == [7500]
    assert not any(read.lost.values())


def test_exits_whose_class_comes_later_are_lost_once(recorded: Callable[..., Recorded]) -> None:
    made = recorded("arm64_openeuler", ring_bytes=1 << 16)
    vcpu = made.vcpu()

    def send() -> None:
        for number in range(3001):
            vcpu.euler_exit(number, TRAP)
            if number % 2:
                vcpu.trap_enter(number, 1)
            vcpu.entry(number)

    vcpu.call(send)
    read = made.read()
    assert {kind: read.events[kind] + read.lost[kind] for kind in (Kind.EXIT, Kind.ENTRY)} == {
        Kind.EXIT: 3001,
        Kind.ENTRY: 3001,
    }
    # A record takes 8 bytes more than an event. One record is the thread's name. The kernel leaves one byte free.
    assert read.lost[Kind.EXIT] == 3001 - (((1 << 16) - 1) // 48 - 1) // 2


def test_events_beyond_a_full_ring_are_counted_as_lost(recorded: Callable[..., Recorded]) -> None:
    """7919 events occur, and nothing reads the ring, which holds 1365.

    Each event is either written or counted as lost. Lost events are counted by kind.
    """
    made = recorded(ring_bytes=1 << 16)
    vcpu = made.vcpu()

    def send(rounds: int) -> None:
        for number in range(rounds):
            vcpu.arm_exit(number, TRAP, 1)
            if number % 3 == 0:
                vcpu.userspace_exit(number, 6)
            vcpu.entry(number)

    made.now = 5
    vcpu.call(lambda: send(3394))
    made.now = 9
    made.take()
    vcpu.call(lambda: send(101))
    vcpu.call(lambda: vcpu.dies(10))
    read = made.read()
    sent = {Kind.EXIT: 3495, Kind.USERSPACE_EXIT: 1132 + 34, Kind.ENTRY: 3495, Kind.THREAD_END: 1}
    assert {kind: read.events[kind] + read.lost[kind] for kind in COUNTED} == sent
    # A record takes 8 bytes more than an event. One record has the thread's name. The kernel leaves one byte of the
    # ring free.
    assert sum(read.events.values()) == ((1 << 16) - 1) // 48 + 101 * 2 + 34 + 1
    assert read.lost[Kind.THREAD_END] == 0


def test_events_of_a_thread_without_a_slot_are_counted_as_lost(recorded: Callable[..., Recorded]) -> None:
    made = recorded(slots=2)
    vcpus = [made.vcpu(f"CPU {number}/KVM") for number in range(3)]
    for vcpu in vcpus:
        _enter(vcpu, range(1, 18))
    vcpus[0].call(lambda: vcpus[0].dies(20))
    vcpus[2].call(lambda: vcpus[2].entry(21))
    read = made.read()
    assert (read.events[Kind.ENTRY], read.lost[Kind.ENTRY]) == (2 * 17 + 1, 17)
    assert [vcpu.index for vcpu in read.vcpus] == ["0", "1", "2"]


def test_events_that_the_kernel_skipped_are_counted_as_lost(
    recorded: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most threads whose end is skipped are no vCPUs, so ends are left out."""
    misses = {"kvm_exit": 3, "kvm_entry": 5, "kvm_userspace_exit": 7, "sched_process_exit": 11}
    made = recorded()
    names = {fd: name for name, fd in made.loaded.programs.items()}
    monkeypatch.setattr(syscall, "program_stats", lambda fd: RunStats(0.0, 0, misses[names[fd]]))
    vcpu = made.vcpu()
    _enter(vcpu, range(1, 18))
    made.take()
    misses["kvm_entry"] += 19
    made.recorder.take()
    read = made.read()
    assert read.events[Kind.ENTRY] == 17
    assert dict(made.recorder.skipped) == {Kind.EXIT: 3, Kind.ENTRY: 24, Kind.USERSPACE_EXIT: 7}
    assert dict(read.lost) == {Kind.EXIT: 3, Kind.ENTRY: 24, Kind.USERSPACE_EXIT: 7, Kind.THREAD_END: 0}


@pytest.mark.parametrize("events", [1, 2, 503, 70_001])
def test_exactly_the_given_number_of_events_is_recorded(recorded: Callable[..., Recorded], events: int) -> None:
    made = recorded(events=events, ring_bytes=1 << 24)
    for number in range(3):
        vcpu = made.vcpu(f"CPU {number}/KVM")
        _enter(vcpu, range(1, 30_011))
    said = ""
    while not said:
        said = made.recorder.take()
    assert said == "events"
    made.recorder.finish(said)
    made._file.close()
    read = recording.read(made.path)
    assert sum(read.events[kind] for kind in COUNTED) == events
    assert not any(read.lost.values())


def test_only_the_given_process_is_recorded(recorded: Callable[..., Recorded]) -> None:
    for tgid, expected in ((os.getpid(), 101), (1, 0)):
        made = recorded(defines={"ONLY_TGID": tgid})
        vcpu = made.vcpu()
        _enter(vcpu, range(1, 102))
        vcpu.call(lambda: vcpu.dies(200))
        read = made.read()
        assert read.events[Kind.ENTRY] == expected
        assert len(read.vms) == (1 if expected else 0)
        assert not any(read.lost.values())


def test_only_the_given_vm_is_recorded(recorded: Callable[..., Recorded]) -> None:
    """This process has no VM name, so its pid stands for the VM's name."""
    for name, expected in ((str(os.getpid()), 101), ("web-1", 0)):
        made = recorded(vm_name=name)
        vcpu = made.vcpu()
        _enter(vcpu, range(1, 102))
        vcpu.call(lambda: vcpu.dies(200))
        read = made.read()
        assert read.events[Kind.ENTRY] == expected
        assert read.events[Kind.THREAD_END] == (1 if expected else 0)
        assert len(read.vms) == (1 if expected else 0)
        assert made.recorder.others == (set() if expected else {str(os.getpid())})


def test_all_threads_of_a_vm_that_ends_before_the_second_look_up_are_recorded(
    recorded: Callable[..., Recorded], tmp_path: Path
) -> None:
    process = tmp_path / "proc" / str(os.getpid())
    process.mkdir(parents=True)
    shutil.copy("/proc/self/stat", process)
    (process / "cmdline").write_bytes(b"qemu-system-aarch64\0-name\0guest=web-1\0")
    made = recorded(vm_name="web-1", proc=process.parent)
    for index, times in enumerate((101, 103)):
        vcpu = made.vcpu(f"CPU {index}/KVM")
        _enter(vcpu, range(1, times + 1))
        made.take()
        if process.exists():
            shutil.rmtree(process)
    read = made.read()
    assert read.events[Kind.ENTRY] == 204
    assert [vm.name for vm in read.vms] == ["web-1"]


def test_a_recording_of_several_blocks_is_replayed_in_full(
    recorded: Callable[..., Recorded], loaded_now: Callable[..., program.Loaded]
) -> None:
    made = recorded(ring_bytes=1 << 23)
    vcpus = [made.vcpu(f"CPU {number}/KVM") for number in range(2)]
    for start in (0, 40_009):
        for vcpu in vcpus:
            _enter(vcpu, range(start + 1, start + 40_010))
        made.take()
    read = made.read()
    assert read.events[Kind.ENTRY] == 4 * 40_009
    assert [sum(len(run.events) for run in runs) for runs in read.runs()] == [65534, 65536, 4 * 40_009 - 131070]
    request = program.replay_request(read.kvm_exit, slots=64, cells=64)
    snapshot, _ = rerun(read, loaded_now(request))
    assert snapshot.counters["unmatched_entry"] == 4 * 40_009 - 2


def test_a_replay_needs_slots_only_for_threads_that_run_at_the_same_time(
    recorded: Callable[..., Recorded], loaded_now: Callable[..., program.Loaded]
) -> None:
    """One slot is enough for a tid that ends and starts again 307 times.

    It is too few for two threads at the same time.
    """
    made = recorded()
    vcpu = made.vcpu()

    def play() -> None:
        for number in range(307):
            vcpu.arm_exit(1000 * number + 1, TRAP, number % 7)
            vcpu.entry(1000 * number + 101)
            vcpu.dies(1000 * number + 500)

    vcpu.call(play)
    read = made.read()
    request = program.replay_request(read.kvm_exit, slots=1, cells=8)
    snapshot, _ = rerun(read, loaded_now(request))
    pid, tid = os.getpid(), vcpu.tid
    assert [found.key for found in snapshot.vcpus] == [ThreadKey(pid, tid, 1000 * n + 1) for n in range(307)]
    assert all(sum(cell.exits for cell in found.cells) == 1 and not found.alive for found in snapshot.vcpus)
    assert not any(snapshot.counters.values())

    made = recorded()
    for each in (made.vcpu(), made.vcpu()):
        each.call(lambda: each.entry(1))
    with pytest.raises(recording.RecordingError, match=r"more than 1 vCPU threads at a time: raise limits\.vcpus"):
        rerun(made.read(), loaded_now(request))


class Command:
    """The command `record` as a process."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "exporter", "record", str(path), *options], stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while not path.exists() and self.process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # The file is created only after the program is attached.

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        if number:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


def _in_a_thread(times: int) -> int:
    thread = threading.Thread(target=run_interrupted, args=(times,))
    thread.start()
    thread.join()
    assert thread.native_id
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        pass
    return thread.native_id


@pytest.mark.kvm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_real_events_are_recorded_until_a_signal(
    tmp_path: Path, loaded_now: Callable[..., program.Loaded], number: signal.Signals
) -> None:
    """A thread fires the kernel's kvm_userspace_exit event 1009 times and then ends."""
    command = Command(tmp_path / "real.kvmrec", "-p", str(os.getpid()))
    tid = _in_a_thread(1009)
    status, said = command.end(number)
    assert status == 0, said
    size = command.path.stat().st_size
    assert said.startswith(
        f"{command.path}: 1010 events (exit 0, entry 0, userspace_exit 1009, thread_end 1), 0 lost, 1 VM, "
    )
    assert said.endswith(f" s, {size} bytes\n")
    read = recording.read(command.path)
    request = program.replay_request(read.kvm_exit, slots=4, cells=4)
    snapshot, vcpus = rerun(read, loaded_now(request))
    (found,) = snapshot.vcpus
    assert (found.key.pid, found.key.tid, found.comm, found.alive) == (os.getpid(), tid, b"CPU 3/KVM", False)
    assert [(cell.space, cell.code, cell.exits) for cell in found.cells] == [(Space.USERSPACE_ERRNO, EINTR, 1009)]
    assert vcpus[found.key].index == "3"
    assert command.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.kvm
def test_a_signal_ends_a_recording_before_its_duration(tmp_path: Path) -> None:
    command = Command(tmp_path / "timed.kvmrec", "1e9", "--ring-size=64K", f"--pid={os.getpid()}")
    _in_a_thread(101)
    status, said = command.end(signal.SIGINT)
    assert status == 0, said
    assert ": 102 events (exit 0, entry 0, userspace_exit 101, thread_end 1), 0 lost, 1 VM, " in said
    assert _ended(command.path) == "interrupted"


@pytest.mark.kvm
def test_a_recording_ends_after_its_duration(tmp_path: Path) -> None:
    began = time.monotonic()
    command = Command(tmp_path / "timed.kvmrec", "0.7", f"--pid={os.getpid()}")
    status, said = command.end()
    assert status == 0, said
    assert time.monotonic() - began >= 0.7
    assert _ended(command.path) == "duration"


def _ended(path: Path) -> str:
    *_, totals = blocks.read(path)
    return str(json.loads(totals.content)["ended"])


@pytest.mark.kvm
def test_exactly_the_given_number_of_real_events_is_recorded(tmp_path: Path) -> None:
    command = Command(tmp_path / "counted.kvmrec", "--events=53", f"--pid={os.getpid()}")
    _in_a_thread(101)
    status, said = command.end()
    assert status == 0, said
    assert ": 53 events (exit 0, entry 0, userspace_exit 53, thread_end 0), 0 lost, 1 VM, " in said
    assert sum(recording.read(command.path).events[kind] for kind in COUNTED) == 53


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("options", "note"),
    [
        (["--vm=nope"], f"no event matches --vm; seen: {os.getpid()}"),
        ([], f"no event of process {os.getpid()} was seen: is the process a VM?"),
    ],
)
def test_a_recording_without_events_ends_with_a_note(tmp_path: Path, options: list[str], note: str) -> None:
    """There are two runs: one with a vCPU of this process, which has no VM name, and one without a vCPU.

    Both exit with status 0.
    """
    command = Command(tmp_path / "none.kvmrec", f"--pid={os.getpid()}", *options)
    if options:
        _in_a_thread(11)
    status, said = command.end(signal.SIGINT)
    summary, *notes = said.splitlines()
    assert status == 0
    assert ": 0 events (exit 0, entry 0, userspace_exit 0, thread_end 0), 0 lost, 0 VMs, " in summary
    assert notes == [note]


def test_the_note_has_at_most_twenty_printable_names() -> None:
    options = RecordOptions(Path("x"), vm="nope")
    assert record.nothing(options, set()) == "no event was seen: is a VM running on this host?"
    assert record.nothing(options, {"b\x1b[2J", "a"}) == r"no event matches --vm; seen: a, b\x1b[2J"
    many = {f"vm-{number:04}" for number in range(1009)}
    assert record.nothing(options, many).endswith(" vm-0018, vm-0019")


@pytest.mark.kvm
def test_each_refusal_is_reported_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there"
    there.write_text("")
    config = Config()
    for file, said in (
        (there, f"cannot record: {there} exists: choose another name, or overwrite it with --force\n"),
        (
            tmp_path / "no" / "folder",
            f"cannot write {tmp_path}/no/folder: No such file or directory: no complete recording was written\n",
        ),
        (Path("/dev/full"), "cannot record: /dev/full exists and is not a file: choose another name\n"),
    ):
        assert record.run(config, RecordOptions(file, seconds=0.1)) == 1
        assert capfd.readouterr().err == said
    (tmp_path / "sys" / "kernel" / "tracing" / "events" / "sched").mkdir(parents=True)
    assert record.run(config, RecordOptions(tmp_path / "new", seconds=0.1), sysfs=tmp_path / "sys") == 1
    assert capfd.readouterr().err.startswith("cannot record: the tracepoint kvm:kvm_exit does not exist")
    assert not (tmp_path / "new").exists()


def _record(arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = f"exec {sys.executable} -m exporter record {arguments}"
    return subprocess.run(["sh", "-c", command], stderr=PIPE, text=True, check=False, **options)


def _limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.kvm
def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    """The write fails at the header or at the end.

    `record` removes the file that it created, but no device and no redirected file.
    """
    path, redirected = tmp_path / "m.kvmrec", tmp_path / "redirected"
    whole = _record(f"{path} 0.001 --pid={os.getpid()}")
    assert whole.returncode == 0
    size_of_whole = path.stat().st_size
    path.unlink()
    for size in (512, size_of_whole - 50):
        said = _record(f"{path} 0.001 --pid={os.getpid()}", preexec_fn=_limited(size))
        assert (said.returncode, said.stderr) == (
            1,
            f"cannot write {path}: File too large: no complete recording was written\n",
        )
        assert not path.exists()
        said = _record(f"- 0.001 --pid={os.getpid()} > {redirected}", preexec_fn=_limited(size))
        assert (said.returncode, said.stderr) == (
            1,
            "cannot write -: File too large: no complete recording was written\n",
        )
        assert redirected.exists()
    said = _record("- 0.001 > /dev/full")
    assert (said.returncode, said.stderr) == (
        1,
        "cannot write -: No space left on device: no complete recording was written\n",
    )
    assert Path("/dev/full").is_char_device()


@pytest.mark.kvm
def test_a_complete_recording_stays_when_stderr_cannot_be_written(tmp_path: Path) -> None:
    said = _record(f"{tmp_path}/whole 0.001 --pid={os.getpid()} 2>/dev/full")
    assert said.returncode == 0
    assert not any(recording.read(tmp_path / "whole").events.values())


@pytest.mark.kvm
def test_without_memory_for_the_ring_the_old_file_is_unchanged(tmp_path: Path) -> None:
    """The error names the ring buffer. --force would overwrite the old file, but the file is unchanged."""
    path = tmp_path / "old"
    path.write_text("before")
    limited = (
        "import resource, sys\n"
        "from exporter.commands import cli\n"
        "from exporter.kernel import launcher\n"
        "load = launcher.load\n"
        "def then(request):\n"
        "    loaded = load(request)\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (1, resource.RLIM_INFINITY))\n"
        "    return loaded\n"
        "launcher.load = then\n"
        f"sys.exit(cli.main(['record', {str(path)!r}, '0.1', '--force', '--ring-size=64M']))\n"
    )
    said = subprocess.run([sys.executable, "-c", limited], stderr=PIPE, text=True, check=False)
    assert said.returncode == 1
    assert said.stderr == (
        "cannot record: cannot map the ring buffer of 65536K: Cannot allocate memory; try a smaller --ring-size\n"
    )
    assert path.read_text() == "before"


@pytest.mark.kvm
def test_a_second_ctrl_c_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def finish(*_: object) -> None:
        for __ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Recorder, "finish", finish)
    assert record.run(Config(), RecordOptions(tmp_path / "new", seconds=0.001)) == 130
    assert capfd.readouterr().err == "interrupted twice: no complete recording was written\n"
    assert not (tmp_path / "new").exists()
