"""Each thing a host may lack, as a fake tree, and the row that tells of it."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exporter.kernel import preflight, program
from exporter.kernel.preflight import Check, find_tracefs, status, table
from exporter.kernel.preflight.kernel import kernel_version

EVENTS = (
    "kvm/kvm_exit",
    "kvm/kvm_entry",
    "kvm/kvm_userspace_exit",
    "sched/sched_process_exit",
    "sched/sched_process_exec",
)
RELEASE = "6.1.0-56-cloud-arm64"
ALL_CAPS, SYS_ADMIN, SYS_RESOURCE, PERFMON, BPF = 0x1FFFFFFFFFF, 1 << 21, 1 << 24, 1 << 38, 1 << 39


@dataclass
class Host:
    """A host that has everything; tests take away from it."""

    root: Path
    release: str = RELEASE
    machine: str = "aarch64"
    kernel_headers: str = "builtin"

    def __post_init__(self) -> None:
        self.proc, self.sys = self.root / "proc", self.root / "sys"
        self.tracefs = self.sys / "kernel/tracing"
        for event in EVENTS:
            self.write(self.tracefs / "events" / event / "format", "name: x\n")
        self.write(self.sys / "kernel/security/lockdown", "[none] integrity confidentiality\n")
        self.write(self.sys / "kernel/btf/vmlinux", "")
        self.write(self.proc / "sys/net/core/bpf_jit_enable", "1\n")
        self.write(self.root / "dev/kvm", "")
        self.caps(ALL_CAPS)
        self.memlock("8388608", "8388608")
        self.pid_namespace("pid:[4026531836]")
        self.proc_options("rw")

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def caps(self, mask: int) -> None:
        text = f"Name:\tpython3\nCapPrm:\t{ALL_CAPS:016x}\nCapEff:\t{mask:016x}\nCapBnd:\t{ALL_CAPS:016x}\n"
        self.write(self.proc / "self/status", text)

    def memlock(self, soft: str, hard: str) -> None:
        text = (
            "Limit                     Soft Limit           Hard Limit           Units     \n"
            "Max processes             63355                63355                processes \n"
            f"Max locked memory         {soft:<20} {hard:<20} bytes     \n"
        )
        self.write(self.proc / "self/limits", text)

    def proc_options(self, *options: str) -> None:
        """Of the file systems mounted on /proc, one over the other."""
        lines = [f"{22 + i} 27 0:21 / {self.proc} rw shared:9 - proc proc {one}\n" for i, one in enumerate(options)]
        self.write(self.proc / "self/mountinfo", "21 27 0:20 / /sys rw - sysfs sysfs rw\n" + "".join(lines))

    def pid_namespace(self, link: str) -> None:
        path = self.proc / "self/ns/pid"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(link)

    def run(self, **changed: Any) -> list[Check]:
        world: dict[str, Any] = {
            "proc": self.proc,
            "sys": self.sys,
            "tracefs": find_tracefs(self.sys),
            "trial": lambda: "compiled and loaded in 0.3 s",
            "release": self.release,
            "machine": self.machine,
            "map_bytes": 10_000_000,
            "dev": self.root / "dev",
            "modules": self.root / "lib/modules",
            "kernel_headers": self.kernel_headers,
        }
        return preflight.run(**{**world, **changed})

    def row(self, name: str, **changed: Any) -> Check:
        (row,) = [check for check in self.run(**changed) if check.name == name]
        return row

    def missing(self) -> list[str]:
        return [check.name for check in self.run() if check.state == "missing"]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def nobodys_host() -> Iterator[Host]:
    """A host seen without privileges, in a directory that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        host = Host(Path(name))
        if root := os.geteuid() == 0:
            os.seteuid(65534)
        try:
            yield host
        finally:
            if root:
                os.seteuid(0)
            for path in Path(name).rglob("*"):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o755)


def shut(path: Path) -> None:
    """Take every permission away, as the owner, whoever looks afterwards."""
    user = os.geteuid()
    os.seteuid(os.getuid())
    path.chmod(0)
    os.seteuid(user)


def versions() -> str:
    return ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("prometheus_client", "PyYAML", "tornado")
    )


def test_a_host_that_has_everything(host: Host) -> None:
    checks = host.run()
    assert checks == [
        Check("kernel", True, RELEASE),
        Check("architecture", True, "aarch64"),
        Check("tracefs", True, str(host.tracefs)),
        Check("kvm tracepoints", True, "kvm_exit, kvm_entry, kvm_userspace_exit"),
        Check("sched tracepoints", True, "sched_process_exit, sched_process_exec"),
        Check("/dev/kvm", True, "present"),
        Check("capabilities", True, "CAP_SYS_ADMIN"),
        Check("lockdown", True, "none"),
        Check("memlock", True, "no limit on maps since Linux 5.11"),
        Check("pid namespace", True, "the host's"),
        Check("hidepid", True, "processes of other users can be seen"),
        Check("BTF", True, "present, not used"),
        Check("kernel headers", True, "built-in headers", needed=False),
        Check("python modules", True, versions()),
        Check("BPF JIT", True, "on"),
        Check("trial load", True, "compiled and loaded in 0.3 s"),
    ]
    assert [check.name for check in checks if check.state != "ok"] == ["kernel headers"]
    assert status(checks) == 0


def test_a_host_that_has_nothing_gets_every_row(tmp_path: Path) -> None:
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
        "kernel headers": "not needed",
        "python modules": "ok",
        "BPF JIT": "ok",
        "trial load": "missing",
    }
    assert status(checks) == 1


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-56-cloud-arm64", (6, 1, 0)),
        ("5.10.0-136.12.0.86.oe2203sp1.aarch64", (5, 10, 0)),
        ("6.18.44-fc-v657", (6, 18, 44)),
        ("5.15.167.4-microsoft-standard-WSL2", (5, 15, 167)),
        ("6.12-rc3", (6, 12, 0)),
        ("6.12", (6, 12, 0)),
        ("4.19.90+", (4, 19, 90)),
        ("", None),
        ("linux", None),
        ("6", None),
        ("6.x", None),
        ("12345.1", None),
        ("6.12345", None),
    ],
)
def test_kernel_versions(release: str, version: tuple[int, int, int] | None) -> None:
    assert kernel_version(release) == version


@pytest.mark.parametrize(
    ("release", "row"),
    [
        (
            "5.4.302",
            Check("kernel", False, "5.4.302: array maps cannot be mapped before 5.5", "boot Linux 5.5 or newer"),
        ),
        ("5.5.0", Check("kernel", True, "5.5.0; replay alone needs 5.10")),
        ("5.9.16", Check("kernel", True, "5.9.16; replay alone needs 5.10")),
        (
            "5.10.0-136.12.0.86.oe2203sp1.aarch64",
            Check("kernel", True, "5.10.0-136.12.0.86.oe2203sp1.aarch64"),
        ),
        ("x\n", Check("kernel", False, r"'x\n' is no kernel release", "boot Linux 5.5 or newer")),
    ],
)
def test_kernel(host: Host, release: str, row: Check) -> None:
    host.release = release
    assert host.row("kernel") == row


def test_architecture(host: Host) -> None:
    host.machine = "x86_64"
    assert host.row("architecture") == Check("architecture", True, "x86_64")
    host.machine = "riscv64"
    remedy = "run on an aarch64 or x86_64 host"
    assert host.row("architecture") == Check("architecture", False, "riscv64", remedy)


def test_tracefs_is_not_mounted(host: Host) -> None:
    host.tracefs.rename(host.root / "elsewhere")
    host.tracefs.mkdir()
    mount = "mount -t tracefs nodev /sys/kernel/tracing"
    unseen = "cannot be seen without tracefs"
    assert find_tracefs(host.sys) is None
    assert host.row("tracefs") == Check("tracefs", False, "not mounted", mount)
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", False, unseen, mount)
    assert host.row("sched tracepoints") == Check("sched tracepoints", False, unseen, mount)
    assert host.missing() == ["tracefs", "kvm tracepoints", "sched tracepoints"]


def test_tracefs_below_debugfs(host: Host) -> None:
    debugfs = host.sys / "kernel/debug/tracing"
    debugfs.parent.mkdir()
    host.tracefs.rename(debugfs)
    assert find_tracefs(host.sys) == debugfs
    assert host.missing() == []
    host.tracefs.mkdir()
    assert find_tracefs(host.sys) == debugfs
    assert host.row("tracefs") == Check("tracefs", True, str(debugfs))


def test_tracefs_without_events(host: Host) -> None:
    (host.tracefs / "events").rename(host.tracefs / "instances")
    detail = f"{host.tracefs}/events: No such file or directory"
    assert host.row("tracefs") == Check("tracefs", False, detail, "mount -t tracefs nodev /sys/kernel/tracing")


READ = "run as root, or with CAP_DAC_READ_SEARCH (tracefs is mounted for root alone)"


def test_tracefs_that_is_roots(nobodys_host: Host) -> None:
    host = nobodys_host
    shut(host.tracefs)
    assert find_tracefs(host.sys) == host.tracefs
    assert host.row("tracefs") == Check("tracefs", False, f"{host.tracefs}: Permission denied", READ)
    detail = "kvm/kvm_exit: Permission denied"
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", False, detail, READ)


def test_formats_that_are_roots(nobodys_host: Host) -> None:
    host = nobodys_host
    shut(host.tracefs / "events/sched/sched_process_exit/format")
    detail = "sched/sched_process_exit: Permission denied"
    assert host.row("sched tracepoints") == Check("sched tracepoints", False, detail, READ)
    assert host.missing() == ["sched tracepoints"]


@pytest.mark.parametrize(
    ("machine", "remedy"),
    [
        ("x86_64", "modprobe kvm_intel (Intel) or modprobe kvm_amd (AMD)"),
        ("aarch64", "arm64 has KVM built in: a kernel with CONFIG_KVM=y, booted at EL2"),
        ("riscv64", ""),
    ],
)
def test_no_kvm(host: Host, machine: str, remedy: str) -> None:
    host.machine = machine
    (host.tracefs / "events/kvm").rename(host.tracefs / "events/xen")
    none = "No such file or directory"
    detail = f"kvm_exit: {none}, kvm_entry: {none}, kvm_userspace_exit: {none}"
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", False, detail, remedy)


def test_one_tracepoint_less(host: Host) -> None:
    (host.tracefs / "events/kvm/kvm_userspace_exit/format").unlink()
    (host.tracefs / "events/sched/sched_process_exit/format").unlink()
    detail = "kvm_userspace_exit: No such file or directory"
    remedy = "arm64 has KVM built in: a kernel with CONFIG_KVM=y, booted at EL2"
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", False, detail, remedy)
    detail, remedy = "sched_process_exit: No such file or directory", "a kernel with CONFIG_TRACEPOINTS=y"
    assert host.row("sched tracepoints") == Check("sched tracepoints", False, detail, remedy)


def test_no_dev_kvm_is_no_fault(host: Host) -> None:
    (host.root / "dev/kvm").unlink()
    row = host.row("/dev/kvm")
    detail = "absent: this host runs no VM, or its devices are hidden from here"
    assert (row, row.state) == (Check("/dev/kvm", True, detail, needed=False), "not needed")
    assert status(host.run()) == 0


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
def test_capabilities(host: Host, mask: int, release: str, row: Check) -> None:
    host.caps(mask)
    host.release = release
    assert host.row("capabilities") == row


def test_capabilities_that_nobody_tells(host: Host) -> None:
    (host.proc / "self/status").write_text("Name:\tpython3\n")
    assert host.row("capabilities").detail == "without CAP_BPF, CAP_PERFMON"
    (host.proc / "self/status").unlink()
    detail = f"{host.proc}/self/status: No such file or directory"
    assert host.row("capabilities") == Check("capabilities", False, detail, "mount -t proc nodev /proc")


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("none [integrity] confidentiality\n", Check("lockdown", True, "integrity")),
        (
            "none integrity [confidentiality]\n",
            Check(
                "lockdown",
                False,
                "confidentiality: forbids BPF to read kernel memory, and tracefs",
                "boot with lockdown=integrity, or without lockdown=",
            ),
        ),
        ("", Check("lockdown", True, "unknown")),
        (None, Check("lockdown", True, "none: the kernel or this container has no lockdown file")),
    ],
)
def test_lockdown(host: Host, text: str | None, row: Check) -> None:
    path = host.sys / "kernel/security/lockdown"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert host.row("lockdown") == row


def test_lockdown_that_cannot_be_read(host: Host) -> None:
    path = host.sys / "kernel/security/lockdown"
    path.unlink()
    path.mkdir()
    assert host.row("lockdown") == Check("lockdown", True, "unknown: Is a directory")


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
def test_memlock(host: Host, release: str, caps: int, limits: tuple[str, str], row: Check) -> None:
    host.release = release
    host.caps(caps)
    host.memlock(*limits)
    assert host.row("memlock") == row


def test_memlock_that_nobody_tells(host: Host) -> None:
    host.release = "5.10.0"
    host.caps(0)
    (host.proc / "self/limits").unlink()
    detail = f"{host.proc}/self/limits: No such file or directory"
    assert host.row("memlock") == Check("memlock", False, detail, UNLIMIT)


def test_another_pid_namespace(host: Host) -> None:
    host.pid_namespace("pid:[4026532299]")
    detail = "pid:[4026532299] is not the host's: the pids of VMs mean others here"
    remedy = "run in the host's pid namespace: docker --pid=host, hostPID: true in a Kubernetes pod"
    assert host.row("pid namespace") == Check("pid namespace", False, detail, remedy)
    (host.proc / "self/ns/pid").unlink()
    detail = f"{host.proc}/self/ns/pid: No such file or directory"
    assert host.row("pid namespace") == Check("pid namespace", False, detail, "mount -t proc nodev /proc")


def test_no_btf_is_no_fault(host: Host) -> None:
    (host.sys / "kernel/btf/vmlinux").unlink()
    row = host.row("BTF")
    assert (row, row.state) == (Check("BTF", True, "not used", needed=False), "not needed")
    assert status(host.run()) == 0


def test_kernel_headers_of_the_system(host: Host) -> None:
    host.kernel_headers = "system"
    build, archive = host.root / "lib/modules" / RELEASE / "build", host.sys / "kernel/kheaders.tar.xz"
    remedy = "install the running kernel's headers, or set kernel_headers: builtin"
    assert host.row("kernel headers") == Check("kernel headers", False, f"no {build} and no {archive}", remedy)
    build.parent.mkdir(parents=True)
    build.symlink_to(host.root / "gone")
    assert host.row("kernel headers").state == "missing"
    archive.write_text("")
    assert host.row("kernel headers") == Check("kernel headers", True, str(archive))
    build.unlink()
    build.mkdir()
    assert host.row("kernel headers") == Check("kernel headers", True, str(build))


def test_kernel_headers_of_a_path(host: Host) -> None:
    tree = host.root / "headers"
    host.kernel_headers = str(tree)
    remedy = "give kernel_headers a header tree, or leave it builtin"
    assert host.row("kernel headers") == Check("kernel headers", False, f"no {tree}", remedy)
    tree.mkdir()
    assert host.row("kernel headers") == Check("kernel headers", True, str(tree))


def test_hidepid(host: Host) -> None:
    detail = "{}: the exporter, which is not root, sees no VM of another user: pids stand for names"
    host.proc_options("rw,hidepid=invisible")
    remedy = f"mount -o remount,hidepid=0 {host.proc}, or with gid=GROUP and run_as's user in it"
    assert host.row("hidepid") == Check("hidepid", False, detail.format("hidepid=invisible"), remedy)
    host.proc_options("rw,gid=26,hidepid=2")
    remedy = "add the user of run_as to the group of gid=26"
    assert host.row("hidepid") == Check("hidepid", False, detail.format("hidepid=2"), remedy)
    for options in (("rw,hidepid=0",), ("rw,hidepid=off",), ("rw,hidepid=2", "rw"), ()):
        host.proc_options(*options)
        assert host.row("hidepid").ok


def test_python_modules(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    detail = "without prometheus_client, PyYAML, tornado"
    remedy = (
        "install python3-prometheus-client, python3-tornado and python3-yaml (Debian, Ubuntu), "
        "python3-prometheus_client, python3-tornado and python3-pyyaml (Fedora, RHEL)"
    )
    assert host.row("python modules") == Check("python modules", False, detail, remedy)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        (
            "0\n",
            Check(
                "BPF JIT",
                True,
                "off: the program is interpreted, and slow",
                "sysctl -w net.core.bpf_jit_enable=1",
            ),
        ),
        (
            "2\n",
            Check("BPF JIT", True, "mode 2: traces what it compiles", "sysctl -w net.core.bpf_jit_enable=1"),
        ),
        (None, Check("BPF JIT", True, "unknown: No such file or directory")),
    ],
)
def test_jit(host: Host, text: str | None, row: Check) -> None:
    path = host.proc / "sys/net/core/bpf_jit_enable"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert host.row("BPF JIT") == row
    assert host.missing() == []


class LoadError(Exception):
    what = "the verifier refused on_exit"
    remedy = "report it"


class Wordless(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize(
    ("error", "detail", "remedy"),
    [
        (program.LoadError("no bcc", "apt install python3-bpfcc"), "no bcc", "apt install python3-bpfcc"),
        (program.LoadError("no bcc"), "no bcc", ""),
        (LoadError("unseen"), "the verifier refused on_exit", "report it"),
        (OSError(1, "Operation not permitted"), "[Errno 1] Operation not permitted", ""),
        (Wordless(), "Wordless", ""),
    ],
)
def test_trial(host: Host, error: Exception, detail: str, remedy: str) -> None:
    def trial() -> str:
        raise error

    assert host.row("trial load", trial=trial) == Check("trial load", False, detail, remedy)


def test_no_bcc_in_this_process(host: Host) -> None:
    host.run()
    assert not {"bcc", "bpfcc"} & set(__import__("sys").modules)


def test_table() -> None:
    checks = [
        Check("kernel", True, RELEASE),
        Check("BTF", True, "not used", needed=False),
        Check("tracefs", False, "not mounted", "mount -t tracefs nodev /sys/kernel/tracing"),
        Check("BPF JIT", True, "off", "sysctl"),
        Check("trial load", False, "error: a\n  b\x1b[31m " + "word " * 12, "first do this and " * 4),
        Check("silent", False, ""),
    ]
    assert table(checks) == (
        "CHECK       STATE       DETAIL -> REMEDY\n"
        "kernel      ok          6.1.0-56-cloud-arm64\n"
        "BTF         not needed  not used\n"
        "tracefs     missing     not mounted\n"
        "                        -> mount -t tracefs nodev /sys/kernel/tracing\n"
        "BPF JIT     ok          off\n"
        "                        -> sysctl\n"
        "trial load  missing     error: a   b [31m word word word word word word word\n"
        "                        word word word word word\n"
        "                        -> first do this and first do this and first do this and\n"
        "                           first do this and\n"
        "silent      missing\n"
    )
    assert status(checks) == 1


def test_table_of_a_bad_host_fits_a_terminal(host: Host) -> None:
    (host.tracefs / "events/kvm").rename(host.tracefs / "events/xen")
    host.caps(0)
    host.pid_namespace("pid:[4026532299]")
    lines = table(host.run(tracefs=Path("/sys/kernel/tracing"))).splitlines()
    assert max(map(len, lines)) <= 80


def test_a_word_longer_than_the_line_is_not_broken() -> None:
    path = "/" + "x" * 100
    assert (
        table([Check("tracefs", True, path)]) == f"CHECK    STATE       DETAIL -> REMEDY\ntracefs  ok          {path}\n"
    )


def test_this_machine() -> None:
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
    assert len(checks) == 16
    assert table(checks).startswith("CHECK ")
    assert status(checks) in {0, 1}
