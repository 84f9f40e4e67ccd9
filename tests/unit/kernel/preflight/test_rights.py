"""The checks of the process's rights: capabilities, memlock, pid namespace and hidepid."""

from __future__ import annotations

import pytest

from exporter.kernel.preflight import Check
from tests.unit.kernel.preflight.host import ALL_CAPS, BPF, PERFMON, SYS_ADMIN, SYS_RESOURCE, Host

ROOT = "run as root, or with AmbientCapabilities="


@pytest.mark.parametrize(
    ("mask", "release", "row"),
    [
        (BPF | PERFMON, "5.8.0", Check("capabilities", True, "CAP_BPF, CAP_PERFMON")),
        (SYS_ADMIN, "5.8.0", Check("capabilities", True, "CAP_SYS_ADMIN")),
        (SYS_ADMIN, "5.7.0", Check("capabilities", True, "CAP_SYS_ADMIN")),
        (BPF | PERFMON, "unknown", Check("capabilities", True, "CAP_BPF, CAP_PERFMON")),
        (
            0,
            "5.8.0",
            Check(
                "capabilities",
                False,
                "without CAP_BPF, CAP_PERFMON",
                f"{ROOT}CAP_BPF CAP_PERFMON in the systemd unit, or --cap-add BPF --cap-add PERFMON for a container",
            ),
        ),
        (
            BPF,
            "5.8.0",
            Check(
                "capabilities",
                False,
                "without CAP_PERFMON",
                f"{ROOT}CAP_PERFMON in the systemd unit, or --cap-add PERFMON for a container",
            ),
        ),
        (
            ALL_CAPS & ~(BPF | SYS_ADMIN),
            "6.1.0",
            Check(
                "capabilities",
                False,
                "without CAP_BPF",
                f"{ROOT}CAP_BPF in the systemd unit, or --cap-add BPF for a container",
            ),
        ),
        (
            BPF | PERFMON,
            "5.7.19",
            Check(
                "capabilities",
                False,
                "without CAP_SYS_ADMIN",
                f"{ROOT}CAP_SYS_ADMIN in the systemd unit, or --cap-add SYS_ADMIN for a container",
            ),
        ),
    ],
)
def test_missing_capabilities_are_named_with_their_remedy(host: Host, mask: int, release: str, row: Check) -> None:
    host.caps(mask)
    host.release = release
    assert host.row("capabilities") == row


def test_capabilities_that_cannot_be_read_count_as_missing(host: Host) -> None:
    (host.proc / "self/status").write_text("Name:\tpython3\n")
    assert host.row("capabilities").detail == "without CAP_BPF, CAP_PERFMON"
    (host.proc / "self/status").unlink()
    detail = f"{host.proc}/self/status: No such file or directory"
    assert host.row("capabilities") == Check("capabilities", False, detail, "mount -t proc nodev /proc")


UNLIMIT = "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit"


@pytest.mark.parametrize(
    ("release", "caps", "limits", "row"),
    [
        ("5.11.0", 0, ("0", "0"), Check("memlock", True, "no limit on maps since Linux 5.11")),
        ("5.10.0", ALL_CAPS, ("65536", "65536"), Check("memlock", True, "CAP_SYS_RESOURCE can raise it")),
        ("5.10.0", SYS_RESOURCE, ("65536", "65536"), Check("memlock", True, "CAP_SYS_RESOURCE can raise it")),
        ("5.10.0", 0, ("unlimited", "unlimited"), Check("memlock", True, "unlimited")),
        ("5.10.0", 0, ("65536", "unlimited"), Check("memlock", True, "unlimited")),
        (
            "5.10.0",
            0,
            ("10000000", "10000000"),
            Check("memlock", True, "10000000 bytes, the maps need 10000000"),
        ),
        (
            "5.10.0",
            0,
            ("9999999", "99999999"),
            Check("memlock", False, "9999999 bytes, the maps need 10000000", UNLIMIT),
        ),
        ("?", 0, ("65536", "65536"), Check("memlock", False, "65536 bytes, the maps need 10000000", UNLIMIT)),
        ("5.10.0", 0, ("x", "y"), Check("memlock", False, "0 bytes, the maps need 10000000", UNLIMIT)),
    ],
)
def test_before_linux_5_11_the_memlock_limit_must_be_large_enough_for_the_maps(
    host: Host, release: str, caps: int, limits: tuple[str, str], row: Check
) -> None:
    host.release = release
    host.caps(caps)
    host.memlock(*limits)
    assert host.row("memlock") == row


def test_a_memlock_limit_that_cannot_be_read_counts_as_missing(host: Host) -> None:
    host.release = "5.10.0"
    host.caps(0)
    (host.proc / "self/limits").unlink()
    detail = f"{host.proc}/self/limits: No such file or directory"
    assert host.row("memlock") == Check("memlock", False, detail, UNLIMIT)


def test_a_pid_namespace_of_a_container_is_refused(host: Host) -> None:
    host.pid_namespace("pid:[4026532299]")
    detail = "pid:[4026532299] is not the host's: here, the pid of a VM means another process"
    remedy = (
        "run in the host's PID namespace: docker --pid=host, or hostPID: true in a Kubernetes pod. With kind, "
        "OrbStack, Docker Desktop or WSL 2, this reaches only the namespace of the node or the distribution, which is "
        "itself a container: there, run the exporter on the Linux machine that has the containers"
    )
    assert host.row("pid namespace") == Check("pid namespace", False, detail, remedy)
    (host.proc / "self/ns/pid").unlink()
    detail = f"{host.proc}/self/ns/pid: No such file or directory"
    assert host.row("pid namespace") == Check("pid namespace", False, detail, "mount -t proc nodev /proc")


def test_hidepid_that_hides_other_users_is_refused(host: Host) -> None:
    detail = "{}: the exporter, which is not root, sees no VM of another user, and shows pids in place of names"
    host.proc_options("rw,hidepid=invisible")
    remedy = f"mount -o remount,hidepid=0 {host.proc}, or with gid=GROUP and run_as's user in it"
    assert host.row("hidepid") == Check("hidepid", False, detail.format("hidepid=invisible"), remedy)
    host.proc_options("rw,gid=26,hidepid=2")
    remedy = "add the user of run_as to the group of gid=26"
    assert host.row("hidepid") == Check("hidepid", False, detail.format("hidepid=2"), remedy)
    for options in (("rw,hidepid=0",), ("rw,hidepid=off",), ("rw,hidepid=2", "rw"), ()):
        host.proc_options(*options)
        assert host.row("hidepid").ok
