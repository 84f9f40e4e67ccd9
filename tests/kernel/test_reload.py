"""SIGHUP reloads the configuration. Some options change at once, others need a restart, and counters never fall."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.config import load as configfile
from exporter.config.options import Config, Level, Limits, Reasons, Web
from exporter.service.daemon import Daemon
from tests.support.kvm import run_interrupted
from tests.support.services import Service

Start = Callable[..., Service]

Totals = dict[tuple[str, frozenset[tuple[str, str]]], float]


NAMES = (
    "kvm_exits_total",
    "kvm_userspace_exits_total",
    "kvm_vcpu_guest_seconds_total",
    "kvm_exit_duration_seconds_count",
    "kvm_exit_duration_seconds_sum",
    "kvm_exit_duration_seconds_bucket",
)


def totals(service: Service) -> Totals:
    samples = service.scrape()
    return {(name, frozenset(labels.items())): value for name in NAMES for labels, value in samples.get(name, [])}


def reload(service: Service, path: Path, text: str, times: int) -> None:
    path.write_text(text)
    service.process.send_signal(signal.SIGHUP)
    service.logged("configuration (not )?reloaded", times)


def test_no_counter_falls_after_a_reload(start: Start, folder: Path) -> None:
    """Reloads change levels, reasons and buckets during a busy replay.

    The counters of a series must not fall while the series exists.
    """
    demo = start("demo", "--speed", "20")
    demo.logged("replaying")
    path = folder / "demo.yaml"
    base = path.read_text()
    deadline = time.monotonic() + 30
    while len(before := totals(demo)) < 200:
        assert time.monotonic() < deadline
    for number, change in enumerate(
        (
            "reasons: {deny: [EC_WFx]}\n",
            "reasons: {deny: [EC_WFx, EC_HVC64, IRQ]}\n",
            "reasons: {allow: [EC_DABT_LOW]}\n",
            "histogram: {classic: {factor: 2}}\n",
            "level: {counters: vm, histograms: vm}\n",
            "level: {counters: vm, histograms: vm}\nreasons: {deny: [EC_HVC64]}\n",
            "",
        ),
        1,
    ):
        reload(demo, path, base + change, number)
        after = totals(demo)
        fallen = {key: (value, after[key]) for key, value in before.items() if after.get(key, value) < value}
        assert fallen == {}
        assert len(after) > 20
        before = after
    assert demo.value("kvm_exit_exporter_config_last_reload_successful") == 1
    assert [line for line in demo.log if "level=error" in line] == []


def test_a_reload_changes_the_served_pages_at_once(start: Start, folder: Path) -> None:
    demo = start("demo")
    demo.logged("replaying")
    path = folder / "demo.yaml"
    base = path.read_text()
    loaded = demo.value("kvm_exit_exporter_config_last_reload_success_timestamp_seconds")
    changed = base.replace("web: {", "web: {telemetry_path: /elsewhere, gzip: false, ")
    reload(demo, path, changed + "level: {histograms: 'off'}\nlog: {format: json}\n", 1)
    deadline = time.monotonic() + 30
    while "kvm_exits_total" not in (samples := demo.scrape("/elsewhere")):
        assert time.monotonic() < deadline
    assert "kvm_exit_duration_seconds_count" not in samples
    assert samples["kvm_exit_exporter_served_histograms"] == [({}, 0.0)]
    with pytest.raises(OSError, match="404"):
        demo.get("/metrics")
    assert '"msg": "configuration reloaded"' in "".join(demo.log)
    later = demo.value("kvm_exit_exporter_config_last_reload_success_timestamp_seconds", "/elsewhere")
    assert later > loaded


def test_a_bad_file_changes_nothing(start: Start, folder: Path) -> None:
    demo = start("demo")
    demo.logged("replaying")
    path = folder / "demo.yaml"
    base = path.read_text()
    deadline = time.monotonic() + 30
    while "kvm_exit_duration_seconds_count" not in demo.scrape():  # no VM has a name yet
        assert time.monotonic() < deadline
    loaded = demo.value("kvm_exit_exporter_config_last_reload_success_timestamp_seconds")
    reload(demo, path, base + "linger: for ever\nlevel: {histograms: 'off'}\nno_such: 1\n", 2)
    errors = [line for line in demo.log if "level=error" in line]
    assert len(errors) == 2
    assert f"{path}:4: linger" in errors[0]
    assert demo.value("kvm_exit_exporter_config_last_reload_successful") == 0
    assert demo.value("kvm_exit_exporter_config_last_reload_success_timestamp_seconds") == loaded
    assert "kvm_exit_duration_seconds_count" in demo.scrape()
    path.unlink()
    demo.process.send_signal(signal.SIGHUP)
    demo.logged("No such file or directory")
    assert demo.value("kvm_exit_exporter_config_last_reload_successful") == 0
    reload(demo, path, base, 4)
    assert demo.value("kvm_exit_exporter_config_last_reload_successful") == 1
    assert demo.value("kvm_exit_exporter_config_last_reload_success_timestamp_seconds") > loaded
    assert demo.end() == 0


def test_a_file_that_became_a_fifo_stops_neither_collecting_nor_sigterm(start: Start, folder: Path) -> None:
    demo = start("demo")
    demo.logged("replaying")
    path = folder / "demo.yaml"
    path.unlink()
    os.mkfifo(path)
    demo.process.send_signal(signal.SIGHUP)
    demo.logged("configuration not reloaded.*it is not a regular file")
    assert demo.end() == 0


@pytest.mark.kvm
def test_options_that_need_a_restart_are_logged_and_not_applied(start: Start, folder: Path) -> None:
    serve = start("serve")
    serve.logged("msg=attached")
    path = folder / "serve.yaml"
    text = f"lock_file: {folder}/other\nweb: {{listen_address: ['127.0.0.1:1']}}\nlimits: {{vcpus: 23}}\n"
    reload(serve, path, text + "bpf_stats: true\nkernel_headers: system\nlinger: 1s\ncollect_interval: 1s\n", 1)
    waiting = [line for line in serve.log if "waits for a restart" in line]
    said = [line.split("option=")[1].split()[0] for line in waiting]
    assert said == ["web.listen_address", "limits.vcpus", "bpf_stats", "kernel_headers", "lock_file", "run_as"]
    assert "in_force=nobody" in waiting[-1].replace('"', "").replace("\\", "")
    assert serve.value("kvm_exit_exporter_vcpu_slots") == 4096
    # The new linger and collect_interval are in force, so an ended vCPU soon disappears from the page.
    thread = threading.Thread(target=run_interrupted, args=(101,))
    thread.start()
    thread.join()
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        pass
    assert serve.of_thread("kvm_userspace_exits_total", thread.native_id or 0) == {"restart": 101}
    deadline = time.monotonic() + 30
    while serve.of_thread("kvm_userspace_exits_total", thread.native_id or 0):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.kvm
def test_reload_returns_the_first_error() -> None:
    """Daemon.reload() returns the answer to POST /-/reload: the first error, or "" without an error."""
    answers: list[Callable[[], Config]] = []
    config = Config(web=Web(listen_address=("127.0.0.1:0",)), lock_file="")

    def reread() -> Config:
        return answers.pop(0)()

    daemon = Daemon(config, reread=reread)
    try:
        answers.append(lambda: Config(limits=Limits(3, 5), level=Level(counters="vm"), reasons=Reasons(deny=("HLT",))))
        assert daemon.reload() == ""
        answers.append(lambda: configfile.parse("linger: 1\nlinger: 2\nx: 3\n", "c.yaml"))
        wrong = daemon.reload()
        assert wrong.startswith("c.yaml:1: linger: 1 has no unit")
        assert wrong.endswith(" more)")
        assert "\n" not in wrong
        assert Daemon(config).reload() == "there is no configuration to read again"
    finally:
        daemon.close()
