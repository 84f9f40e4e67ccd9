"""The service restarts under a stand-in for systemd. Exits occur all the time, and no exit is missing afterwards."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from exporter.kernel import syscall
from exporter.kernel.isa import registry
from exporter.kernel.program import MAPS, events
from exporter.recording.vm import name_thread
from tests.support.kvm import KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE, KVM_RUN, run_interrupted
from tests.support.services import FakeSystemd, Service

pytestmark = pytest.mark.kvm

FRONT = registry.BY_MACHINE[platform.machine()].name
STORED = {
    *(f"map.{name}" for name in MAPS["counting"]),
    *(f"{kind}.{name}" for kind in ("program", "attachment") for name in events("counting", FRONT)),
    "ledger.0",
    "ledger.1",
    "state",
}

Start = Callable[..., Service]


class Busy(threading.Thread):
    """A vCPU thread that returns to user space about 100,000 times a second, until `finish` is set."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self.finish, self.finished, self.leave = threading.Event(), threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        name_thread(b"CPU 5/KVM")
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 5)
        libc = ctypes.CDLL(None, use_errno=True)
        with mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)) as run:
            run[1] = 1  # struct kvm_run, immediate_exit
            while not self.finish.is_set():
                assert libc.ioctl(vcpu, ctypes.c_ulong(KVM_RUN), 0) == -1
                assert ctypes.get_errno() == errno.EINTR
                self.sent += 1
                if self.sent % 97 == 0:
                    time.sleep(0.0005)
            self.finished.set()
            self.leave.wait()
        for fd in (vcpu, vm, kvm):
            os.close(fd)


def short_lived(times: int) -> int:
    """Start a vCPU thread that returns to user space `times` times. Wait for its end, and return its tid."""
    thread = threading.Thread(target=run_interrupted, args=(times,))
    thread.start()
    thread.join()
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        pass
    assert thread.native_id
    return thread.native_id


@pytest.fixture
def systemd() -> Iterator[FakeSystemd]:
    # The exporter is not root, and only root can read pytest's folders. So the test makes another folder.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        played = FakeSystemd(f"{folder}/notify")
        yield played
        played.close()


@pytest.fixture
def start(tmp_path: Path, systemd: FakeSystemd) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(more: str = "", run_as: str = "nobody") -> Service:
            config = tmp_path / "serve.yaml"
            config.write_text(
                f"lock_file: {tmp_path}/run/lock\nrun_as: '{run_as}'\nweb: {{listen_address: ['127.0.0.1:0']}}\n{more}"
            )
            service = Service("serve", f"--config.file={config}", systemd=systemd)
            stack.callback(service.end, signal.SIGKILL)
            service.logged("msg=attached")
            return service

        yield begin


def test_restarts_lose_no_exit(start: Start, systemd: FakeSystemd) -> None:
    """The service starts seven times, three of them after SIGKILL. One vCPU never pauses, and other vCPUs end."""
    serve = start()
    systemd.wait_for("FDNAME=state")
    assert systemd.names() == STORED
    since = serve.value("kvm_exit_exporter_counting_since_timestamp_seconds")
    busy = Busy()
    assert busy.native_id
    ended: dict[int, int] = {}
    last = 0.0
    for number, prime in zip((signal.SIGTERM, signal.SIGKILL) * 3, (101, 103, 107, 109, 113, 127)):
        deadline = time.monotonic() + 60
        while not (seen := serve.of_thread("kvm_userspace_exits_total", busy.native_id)):
            assert busy.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert seen["restart"] >= last
        last = seen["restart"]
        ended[short_lived(prime)] = prime  # this vCPU is not scraped before the service ends
        before = busy.sent
        status = serve.end(number)
        assert status == (0 if number == signal.SIGTERM else -9)
        ended[short_lived(prime + 6)] = prime + 6  # this vCPU runs while no exporter runs
        serve = start()
        assert busy.sent > before
        assert "kept_over_restart=true" in "".join(serve.log)
    busy.finish.set()
    assert busy.finished.wait(60)
    assert serve.of_thread("kvm_userspace_exits_total", busy.native_id) == {"restart": busy.sent}
    samples = serve.settled()["kvm_userspace_exits_total"]
    served = {int(labels["tid"]): value for labels, value in samples if labels["pid"] == str(os.getpid())}
    assert served == {**ended, busy.native_id: busy.sent}
    assert serve.value("kvm_exit_exporter_counting_since_timestamp_seconds") == since
    assert serve.value("kvm_exit_exporter_recycling_pending") == 0
    dropped = serve.scrape()["kvm_exit_exporter_dropped_userspace_exits_total"]
    assert [labels for labels, value in dropped if value] == []
    busy.leave.set()


def test_ended_vcpus_keep_their_names_over_a_restart(start: Start, systemd: FakeSystemd) -> None:
    serve = start()
    tid = short_lived(211)
    assert serve.of_thread("kvm_userspace_exits_total", tid) == {"restart": 211}
    (before,) = [labels for labels, _ in serve.settled()["kvm_userspace_exits_total"] if labels["tid"] == str(tid)]
    serve.end()
    assert systemd.names() == STORED
    serve = start("linger: 1m\n")
    (after,) = [labels for labels, _ in serve.settled()["kvm_userspace_exits_total"] if labels["tid"] == str(tid)]
    assert after == before
    assert serve.of_thread("kvm_userspace_exits_total", tid) == {"restart": 211}


EXITS, UNSERVED = "kvm_userspace_exits_total", "kvm_exit_exporter_unserved_userspace_exits_total"


def _of_this_process(service: Service) -> dict[str, float]:
    """Return the served number of returns to user space for each vCPU of this process, by tid.

    At level vm, the key is "" instead of a tid.
    """
    samples = service.settled().get(EXITS, [])
    return {labels.get("tid", ""): value for labels, value in samples if labels["pid"] == str(os.getpid())}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_sum_of_a_vm_keeps_its_ended_threads_over_a_restart(start: Start, number: signal.Signals) -> None:
    """At level vm, the series of a VM includes the counts of ended threads, even after their linger.

    It ends with the VM's last thread.
    """
    more = "level: {counters: vm, histograms: vm}\nlinger: 1s\ncollect_interval: 1s\n"
    serve = start(more)
    busy = Busy()
    while not _of_this_process(serve):
        time.sleep(0.01)
    busy.finish.set()
    assert busy.finished.wait(60)
    short_lived(1009)
    for _ in range(2):
        assert _of_this_process(serve) == {"": busy.sent + 1009}
        deadline = time.monotonic() + 30
        while serve.value("kvm_exit_exporter_collections_total") < 9:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        assert _of_this_process(serve) == {"": busy.sent + 1009}, "after linger"
        serve.end(number)
        serve = start(more)
    assert _of_this_process(serve) == {"": busy.sent + 1009}
    assert serve.value(UNSERVED) == 0
    busy.leave.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_only_exits_that_no_page_had_are_unserved_after_a_restart(start: Start, number: signal.Signals) -> None:
    """One vCPU was scraped, the next one was not.

    After the restart, the linger of both is over before the next scrape.
    """
    more = "linger: 2s\ncollect_interval: 1s\n"
    serve = start(more)
    served = short_lived(1009)
    assert serve.of_thread(EXITS, served) == {"restart": 1009}
    time.sleep(1.5)  # the timer collects, and the ledger then contains the served counts
    short_lived(503)
    serve.end(number)
    serve = start(more)
    time.sleep(4.5)
    assert _of_this_process(serve) == {}
    assert serve.value(UNSERVED) == 503


def test_ended_vcpus_survive_a_kill_without_free_descriptors(start: Start, systemd: FakeSystemd) -> None:
    """The service cannot open any more descriptors. It goes on, and still keeps the counts of vCPUs that end."""
    serve = start("collect_interval: 1s\n", run_as="")  # prlimit(2) works only between processes of the same user
    serve.scrape()
    pid = serve.process.pid
    limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), limit[1]))
    tid = short_lived(1009)
    time.sleep(2.5)
    assert serve.process.poll() is None, serve.log
    serve.end(signal.SIGKILL)
    assert start().of_thread(EXITS, tid) == {"restart": 1009}


def test_scrapes_send_nothing_to_systemd(start: Start, systemd: FakeSystemd) -> None:
    """A scrape must not wait for systemd. After the start, the service sends only watchdog messages."""
    serve = start()
    systemd.wait_for("READY=1")
    serve.scrape()
    sent = len(systemd.messages)
    tids = {short_lived(prime): prime for prime in (101, 103, 107)}
    assert {int(tid): value for tid, value in _of_this_process(serve).items()} == tids
    assert [message for message in systemd.messages[sent:] if message != "WATCHDOG=1"] == []
    serve.end(signal.SIGKILL)
    assert {int(tid): value for tid, value in _of_this_process(start()).items()} == tids


def test_restarts_leak_no_slot_and_no_cell(start: Start) -> None:
    """The pool has three slots.

    Four vCPUs start and end each time that the service runs. No exit is dropped.
    """
    tids = {}
    for number in (signal.SIGTERM,) * 3:
        serve = start("limits: {vcpus: 3, cells: 5}\n")
        for times in (3, 5, 7, 11):
            tids[short_lived(times)] = times
            serve.scrape()
        serve.end(number)
    serve = start("limits: {vcpus: 3, cells: 5}\n")
    samples = serve.settled()
    served = {int(labels["tid"]): value for labels, value in samples["kvm_userspace_exits_total"]}
    assert {tid: served.get(tid) for tid in tids} == tids
    dropped = samples["kvm_exit_exporter_dropped_userspace_exits_total"]
    assert [labels for labels, value in dropped if value] == []


def test_counters_start_at_0_after_a_change_of_limits(start: Start, systemd: FakeSystemd) -> None:
    serve = start()
    systemd.wait_for("FDNAME=state")
    tid = short_lived(307)
    old = os.dup(dict(systemd.store)["program.kvm_userspace_exit"])
    statistics = syscall.enable_stats()
    try:
        serve.end()
        serve = start("limits: {vcpus: 23, cells: 29}\n")
        systemd.wait_for("FDNAME=state", times=3)  # stored, removed, and stored again
        (line,) = [line for line in serve.log if "level=warn" in line]
        assert "counting anew" in line
        assert "changed: limits.vcpus, limits.cells" in line
        assert systemd.names() == STORED
        assert len(systemd.store) == len(STORED)
        assert serve.value("kvm_exit_exporter_vcpu_slots") == 23
        before = syscall.program_stats(old).runs
        other = short_lived(311)
        assert serve.of_thread("kvm_userspace_exits_total", tid) == {}
        assert serve.of_thread("kvm_userspace_exits_total", other) == {"restart": 311}
        assert syscall.program_stats(old).runs == before, "the old program is still attached"
    finally:
        os.close(old)
        os.close(statistics)


@pytest.mark.parametrize("lost", ["attachment.kvm_exit", "state", "map.cells"])
def test_counters_start_at_0_when_the_store_is_incomplete(start: Start, systemd: FakeSystemd, lost: str) -> None:
    start().end(signal.SIGKILL)
    (entry,) = [entry for entry in systemd.store if entry[0] == lost]
    systemd.store.remove(entry)
    os.close(entry[1])
    serve = start()
    assert "counting anew" in "".join(serve.log)
    tid = short_lived(101)
    assert serve.of_thread("kvm_userspace_exits_total", tid) == {"restart": 101}
    systemd.wait_for("FDNAME=state", times=3 if lost != "state" else 2)
    assert systemd.names() == STORED


def test_counters_start_at_0_when_the_state_is_damaged(start: Start, systemd: FakeSystemd) -> None:
    start().end(signal.SIGKILL)
    os.ftruncate(dict(systemd.store)["state"], 100)
    serve = start()
    assert "counting anew" in "".join(serve.log)
    serve.end(signal.SIGKILL)
    os.pwrite(dict(systemd.store)["state"], b" ", 0)
    serve = start()
    assert "counting anew" in "".join(serve.log)
    serve.end(signal.SIGKILL)
    os.ftruncate(dict(systemd.store)["state"], 1 << 40)
    assert "counting anew" in "".join(start().log)


def test_systemd_is_notified_of_start_watchdog_reload_and_stop(start: Start, systemd: FakeSystemd) -> None:
    systemd.environ["WATCHDOG_USEC"] = "400000"
    serve = start()
    systemd.wait_for("READY=1")
    assert any(message.startswith("STATUS=counting; serving on 127.0.0.1:") for message in systemd.messages)
    systemd.wait_for("WATCHDOG=1", times=5)

    os.kill(serve.process.pid, signal.SIGSTOP)
    time.sleep(0.3)
    pings = systemd.messages.count("WATCHDOG=1")
    time.sleep(1)
    assert systemd.messages.count("WATCHDOG=1") == pings
    os.kill(serve.process.pid, signal.SIGCONT)
    systemd.wait_for("WATCHDOG=1", times=pings + 1)
    os.kill(serve.process.pid, signal.SIGHUP)
    systemd.wait_for("RELOADING=1")
    systemd.wait_for("READY=1", times=2)
    assert any(message.startswith("MONOTONIC_USEC=") for message in systemd.messages)
    serve.end()
    assert "STOPPING=1" in systemd.messages
