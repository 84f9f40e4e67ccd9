"""All checks run together: on a complete fake host, on an empty one, and on this machine."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from exporter.kernel import preflight, program
from exporter.kernel.preflight import Check, find_tracefs, status, table
from tests.unit.kernel.preflight.host import KVM_EVENTS, RELEASE, Host


def versions() -> str:
    return ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("prometheus_client", "PyYAML", "tornado")
    )


def test_a_host_that_has_everything_passes_every_check(host: Host) -> None:
    checks = host.run()
    assert checks == [
        Check("kernel", True, RELEASE),
        Check("architecture", True, "aarch64"),
        Check("lockdown", True, "none"),
        Check("tracefs", True, str(host.tracefs)),
        Check("kvm tracepoints", True, ", ".join(KVM_EVENTS)),
        Check("sched tracepoints", True, "sched_process_exit, sched_process_exec"),
        Check("/dev/kvm", True, "present"),
        Check("capabilities", True, "CAP_SYS_ADMIN"),
        Check("memlock", True, "no limit on maps since Linux 5.11"),
        Check("pid namespace", True, "the host's"),
        Check("hidepid", True, "processes of other users can be seen"),
        Check("BTF", True, "present, not used"),
        Check("time split", True, "the scheduler tells waiting for a CPU from sleeping"),
        Check("kernel headers", True, "built-in headers", needed=False),
        Check("python modules", True, versions()),
        Check("BPF JIT", True, "on"),
        Check("trial load", True, "compiled and loaded in 0.3 s"),
    ]
    assert [check.name for check in checks if check.state != "ok"] == ["kernel headers"]
    assert status(checks) == 0


def test_on_a_host_that_has_nothing_every_check_gives_a_row(tmp_path: Path) -> None:
    def trial() -> str:
        raise program.LoadError("no bcc", "apt install python3-bpfcc")

    nowhere = tmp_path / "nowhere"
    checks = preflight.run(
        proc=nowhere,
        sys=nowhere,
        tracefs=None,
        trial=trial,
        release="2.6.32",
        machine="ppc64le",
        map_bytes=1,
        dev=nowhere,
        modules=nowhere,
    )
    states = {check.name: check.state for check in checks}
    assert states == {
        "kernel": "missing",
        "architecture": "missing",
        "tracefs": "missing",
        "kvm tracepoints": "missing",
        "sched tracepoints": "missing",
        "/dev/kvm": "not needed",
        "capabilities": "missing",
        "lockdown": "ok",
        "memlock": "missing",
        "pid namespace": "missing",
        "hidepid": "ok",
        "BTF": "not needed",
        "time split": "not needed",
        "kernel headers": "not needed",
        "python modules": "ok",
        "BPF JIT": "ok",
        "trial load": "missing",
    }
    assert status(checks) == 1


def test_the_checks_do_not_import_bcc(host: Host) -> None:
    host.run()
    assert not {"bcc", "bpfcc"} & set(__import__("sys").modules)


def test_every_check_runs_on_this_machine() -> None:
    uname = os.uname()
    sys = Path("/sys")
    checks = preflight.run(
        proc=Path("/proc"),
        sys=sys,
        tracefs=find_tracefs(sys),
        trial=lambda: "not tried",
        release=uname.release,
        machine=uname.machine,
        map_bytes=1,
    )
    assert checks[0] == Check("kernel", True, uname.release)
    assert len(checks) == 17
    assert table(checks).startswith("CHECK ")
    assert status(checks) in {0, 1}
