"""The commands demo and serve run as processes and are scraped over HTTP."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.config.options import Config, Log, Web
from exporter.kernel.program import LoadError
from exporter.kernel.tracepoint import parse_format
from exporter.service.daemon import Daemon
from tests.recordings import from_ftrace
from tests.support.kvm import run_interrupted
from tests.support.services import Service

Start = Callable[..., "Service"]


def test_demo_serves_the_recorded_vms_and_says_that_it_replays_a_recording(start: Start) -> None:
    """The page has three VMs, five vCPUs and the reasons of a real host.

    The log, the metrics and the page mention the replay.
    """
    demo = start("demo", "--speed", "100")
    demo.logged("replaying a recording: no number on /metrics describes this host")
    wanted = {("web-1", "0"), ("web-1", "1"), ("db-1", "0"), ("db-1", "1"), ("idle-1", "0")}
    reasons: set[str] = set()
    vcpus: set[tuple[str, str]] = set()
    deadline = time.monotonic() + 60
    while not ({"EC_WFx", "EC_DABT_LOW", "EC_SYS64", "EC_HVC64", "EC_IABT_LOW", "IRQ"} <= reasons and vcpus == wanted):
        assert time.monotonic() < deadline
        samples = demo.scrape()
        exits = samples.get("kvm_exits_total", [])
        reasons = {labels["reason"] for labels, _ in exits}
        vcpus = {(labels["vm"], labels["vcpu"]) for labels, _ in exits}
    assert samples["kvm_exit_exporter_replay"] == [({}, 1)]
    assert samples["kvm_exit_exporter_up"] == [({}, 1)]
    assert "not this host" in demo.get("/")
    assert demo.get("/-/ready") == "Ready\n"
    assert demo.end() == 0
    assert not [line for line in demo.log if "level=error" in line]


def test_the_stand_ins_end_when_the_demo_is_killed(start: Start) -> None:
    demo = start("demo")
    demo.logged("replaying")
    children = Path(f"/proc/{demo.process.pid}/task/{demo.process.pid}/children").read_text().split()
    assert len(children) == 3
    demo.process.kill()
    demo.process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_counters_never_fall_during_concurrent_scrapes(start: Start) -> None:
    demo = start("demo")
    demo.logged("replaying")
    failures: list[BaseException] = []

    def scrape() -> None:
        last: dict[tuple[str, ...], float] = {}
        try:
            for _ in range(23):
                samples = demo.scrape()
                now = {tuple(labels.values()): value for labels, value in samples.get("kvm_exits_total", [])}
                counts = {
                    tuple(labels.values()): value
                    for labels, value in samples.get("kvm_exit_duration_seconds_count", [])
                }
                assert now.keys() == counts.keys()
                assert {now[key] - counts[key] for key in now} <= {0.0, 1.0}
                assert all(now[key] >= value for key, value in last.items())
                last = now
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=scrape) for _ in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    # Scrapes that wait at the same time share a collection. Those of one thread come one after the other.
    assert demo.value("kvm_exit_exporter_collections_total") >= 23
    assert demo.value("kvm_exit_exporter_collect_errors_total") == 0


@pytest.mark.kvm
def test_serve_counts_real_events(start: Start) -> None:
    """The service is attached to this kernel.

    A vCPU starts and ends between two scrapes, and the page has all its events.
    """
    serve = start("serve")
    serve.logged("msg=attached")
    assert serve.value("kvm_exit_exporter_up") == 1
    assert serve.value("kvm_exit_exporter_replay") == 0
    for times in (101, 211):
        thread = threading.Thread(target=run_interrupted, args=(times,))
        thread.start()
        thread.join()
        while Path(f"/proc/self/task/{thread.native_id}").exists():
            pass
        samples = serve.scrape()["kvm_userspace_exits_total"]
        (found,) = [(labels, value) for labels, value in samples if labels["tid"] == str(thread.native_id)]
        assert found == (
            {
                "pid": str(os.getpid()),
                "tid": str(thread.native_id),
                "vm": str(os.getpid()),
                "vcpu": "3",
                "reason": "restart",
            },
            times,
        )
    maps = Path(f"/proc/{serve.process.pid}/maps").read_text()
    assert "LLVM" not in maps
    assert "libbcc" not in maps
    assert serve.end() == 0
    assert [line for line in serve.log if "level=info" not in line] == []


@pytest.mark.kvm
def test_a_second_instance_is_refused(start: Start) -> None:
    first = start("serve")
    first.logged("msg=attached")
    second = start("serve")
    assert second.process.wait(timeout=30) == 1
    second.end()
    (error,) = [line for line in second.log if "level=error" in line]
    assert "another instance is running: it holds the lock" in error
    assert start("demo").logged("replaying")  # a demo attaches no program, so it may run at the same time
    assert first.value("kvm_exit_exporter_up") == 1


@pytest.mark.kvm
def test_sigint_ends_the_service(start: Start) -> None:
    serve = start("serve")
    serve.logged("msg=attached")
    assert serve.end(signal.SIGINT) == 0
    assert "msg=stopped" in serve.log[-1]


@pytest.mark.kvm
def test_a_signal_to_any_thread_ends_the_service(start: Start) -> None:
    """The kernel may deliver a signal to any thread, for example in a frozen cgroup.

    Python's handlers run in the main thread.
    """
    service = start("demo", "--collect-interval", "1h")
    service.logged("replaying")
    service.scrape()
    pid = service.process.pid
    other = max(int(path.name) for path in Path(f"/proc/{pid}/task").iterdir())
    assert other != pid
    tgkill = {"x86_64": 234, "aarch64": 131}[platform.machine()]
    assert ctypes.CDLL(None).syscall(tgkill, pid, other, int(signal.SIGTERM)) == 0
    assert service.process.wait(timeout=30) == 0


def test_with_log_format_json_every_line_is_json(start: Start) -> None:
    import json

    serve = start("serve", "--log.format=json")
    serve.logged('"msg": "attached"')
    serve.end()
    assert [json.loads(line)["msg"] for line in serve.log] == [
        "privileges dropped",
        "sandbox entered",
        "listening",
        "attached",
        "stopped",
    ]


def test_a_hostile_vm_name_is_served(start: Start, tmp_path: Path) -> None:
    """The name has the maximum length, with quotes, backslashes and commas. It is escaped, and read back unchanged."""
    hostile = ('x"\\y,}' + "\U0001f4a9" + "z" * 65536)[:128]
    traced = parse_format((from_ftrace.DEMO / "kvm_exit.format").read_text())
    identities = [
        replace(vm.identity(), name=hostile) if vm.pid == 142 else vm.identity()
        for vm in from_ftrace.vms(from_ftrace.DEMO)
    ]
    file = tmp_path / "hostile.kvmrec"
    events = list(from_ftrace.events(from_ftrace.DEMO, traced))
    from_ftrace.write(file, from_ftrace.header(from_ftrace.DEMO), identities, events)
    demo = start("demo", "--speed", "100", f"--recording={file}")
    demo.logged("replaying")
    deadline = time.monotonic() + 30
    while len(names := {labels["vm"] for labels, _ in demo.scrape().get("kvm_exits_total", [])}) < 3:
        assert time.monotonic() < deadline
    assert names == {"db-1", "idle-1", hostile}


@pytest.mark.kvm
def test_serve_waits_for_kvm_and_then_attaches(caplog: pytest.LogCaptureFixture) -> None:
    """At first, tracefs has no kvm events. They appear later."""
    with tempfile.TemporaryDirectory() as root:
        sysfs = Path(root)
        events = sysfs / "kernel/tracing/events"
        (events / "sched").mkdir(parents=True)
        config = Config(web=Web(listen_address=("127.0.0.1:0",)), lock_file="", log=Log())
        daemon = Daemon(config, sysfs=sysfs)
        daemon.prepare()
        daemon.start()
        attaching = threading.Thread(target=daemon.attach)
        attaching.start()
        deadline = time.monotonic() + 30
        while not any("waiting for KVM" in record.message for record in caplog.records):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert attaching.is_alive()
        assert b"kvm_exit_exporter_up 0.0\n" in _page(daemon.addresses[0])
        assert _ready(daemon.addresses[0]) == (503, b"Not ready: waiting for KVM\n")
        real = Path("/sys/kernel/tracing/events/kvm")
        for name in ("kvm_exit", "kvm_userspace_exit"):
            (events / "kvm" / name).mkdir(parents=True)
            shutil.copy(real / name / "format", events / "kvm" / name / "format")
        attaching.join(timeout=30)
        assert not attaching.is_alive()
        assert b"kvm_exit_exporter_up 1.0\n" in _page(daemon.addresses[0])
        assert _ready(daemon.addresses[0]) == (200, b"Ready\n")
        daemon.close()


def test_serve_ends_where_kvm_exit_will_never_exist(caplog: pytest.LogCaptureFixture) -> None:
    """KVM is loaded, as its kvm_userspace_exit shows, but has no kvm_exit: riscv64 before Linux 6.11."""
    with tempfile.TemporaryDirectory() as root:
        sysfs = Path(root)
        (sysfs / "kernel/tracing/events/kvm/kvm_userspace_exit").mkdir(parents=True)
        (sysfs / "kernel/tracing/events/kvm/kvm_userspace_exit/format").write_text("name: kvm_userspace_exit\n")
        daemon = Daemon(Config(web=Web(listen_address=("127.0.0.1:0",)), lock_file=""), sysfs=sysfs)
        daemon.prepare()
        daemon.start()
        too_long = threading.Timer(30, daemon.stop)
        too_long.start()
        with pytest.raises(LoadError) as caught:
            daemon.attach()
        too_long.cancel()
        daemon.close()
    assert caught.value.what == (
        "the tracepoint kvm:kvm_exit does not exist: KVM is loaded, but this kernel's KVM has no such tracepoint"
    )
    assert caught.value.remedy == "boot a newer kernel"
    assert not [record.message for record in caplog.records if "waiting for KVM" in record.message]


def _ready(address: str) -> tuple[int, bytes]:
    """Return the status and the body of /-/ready."""
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def _page(address: str) -> bytes:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        return bytes(answer.read())
