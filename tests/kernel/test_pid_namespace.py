"""In another PID namespace than the host's, the exporter says so, and looks up no name under a foreign pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.services import Samples, Service

NO_NAMES = "VMs have no names: the pids of this PID namespace are not the host's"
PRIVATE = ("unshare", "--pid", "--fork", "--mount-proc")

Start = Callable[..., Service]


@contextmanager
def privately(start: Start, *command: str) -> Iterator[Service]:
    """Run a service in a PID namespace of its own. At the end, stop it and wait for it."""
    service = start(*command, prefix=PRIVATE)
    try:
        yield service
    finally:
        # unshare ignores SIGTERM while it waits for its child.
        for child in Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        assert service.process.wait(timeout=30) == 0


def warnings(service: Service) -> list[str]:
    return [line for line in service.log if "PID namespace" in line]


def vms(samples: Samples) -> set[tuple[str, str, str]]:
    """Return name, uuid and VMM of each VM. A name that is the VM's pid is "pid"."""
    found = [labels for labels, _ in samples.get("kvm_vm_info", [])]
    return {("pid" if vm["vm"] == vm["pid"] else vm["vm"], vm["uuid"], vm["vmm"]) for vm in found}


def with_three_vms(demo: Service) -> Samples:
    deadline = time.monotonic() + 30
    while len((samples := demo.settled()).get("kvm_vm_info", [])) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return samples


def test_a_demo_in_another_pid_namespace_says_once_that_vms_have_no_names(start: Start) -> None:
    with privately(start, "demo", "--speed", "100") as demo:
        demo.logged("replaying a recording")
        samples = with_three_vms(demo)
        assert samples["kvm_exit_exporter_foreign_pid_namespace"] == [({}, 1.0)]
        assert vms(samples) == {("pid", "", "unknown")}
        assert {labels["vcpu"] for labels, _ in samples["kvm_vcpu_guest_seconds_total"]} == {"0", "1"}
        assert NO_NAMES in demo.get("/").replace("&#x27;", "'")
    (line,) = warnings(demo)
    assert f'level=warn msg="{NO_NAMES}" remedy="run in the host' in line


def test_a_demo_in_the_pid_namespace_of_the_host_has_names(start: Start) -> None:
    demo = start("demo", "--speed", "100")
    demo.logged("replaying a recording")
    samples = with_three_vms(demo)
    assert samples["kvm_exit_exporter_foreign_pid_namespace"] == [({}, 0.0)]
    assert {name for name, _, _ in vms(samples)} == {"web-1", "db-1", "idle-1"}
    assert "PID namespace" not in demo.get("/")
    assert warnings(demo) == []


@pytest.mark.kvm
def test_serve_in_another_pid_namespace_says_it_once(start: Start) -> None:
    with privately(start, "serve") as serve:
        serve.logged("msg=attached")
        assert serve.value("kvm_exit_exporter_foreign_pid_namespace") == 1
        assert serve.value("kvm_exit_exporter_up") == 1
    assert len(warnings(serve)) == 1


@pytest.mark.kvm
@pytest.mark.parametrize("arguments", [("record", "FILE", "0.2"), ("top", "0.2", "--source", "own")])
def test_the_commands_say_it_once(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    file = tmp_path / "x.kvmrec"
    words = [str(file) if word == "FILE" else word for word in arguments]
    for prefix, times in ((PRIVATE, 1), ((), 0)):
        command = [*prefix, sys.executable, "-m", "exporter", *words]
        errors = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr
        assert errors.count(f"{NO_NAMES}; run in the host's PID namespace") == times
        file.unlink(missing_ok=True)
