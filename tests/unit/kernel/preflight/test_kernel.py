"""The checks of the kernel: version, architecture, tracefs and tracepoints. In each test, something is missing."""

from __future__ import annotations

import shutil

import pytest

from exporter.kernel.isa import registry
from exporter.kernel.preflight import Check, find_tracefs, status
from exporter.kernel.preflight.kernel import kernel_version
from tests.support.paths import FORMATS
from tests.unit.kernel.preflight.host import KVM_EVENTS, Host, as_owner, shut


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
def test_the_version_is_read_from_the_kernel_release(release: str, version: tuple[int, int, int] | None) -> None:
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
def test_kernels_before_5_5_are_refused(host: Host, release: str, row: Check) -> None:
    host.release = release
    assert host.row("kernel") == row


def test_unknown_architectures_are_refused(host: Host) -> None:
    host.machine = "x86_64"
    assert host.row("architecture") == Check("architecture", True, "x86_64")
    host.machine = "ppc64le"
    remedy = f"run on an {' or '.join(registry.BY_MACHINE)} host"
    assert host.row("architecture") == Check("architecture", False, "ppc64le", remedy)


def test_without_tracefs_the_remedy_is_to_mount_it(host: Host) -> None:
    host.tracefs.rename(host.root / "elsewhere")
    host.tracefs.mkdir()
    mount = "mount -t tracefs nodev /sys/kernel/tracing"
    unseen = "cannot be seen without tracefs"
    assert find_tracefs(host.sys) is None
    assert host.row("tracefs") == Check("tracefs", False, "not mounted", mount)
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", False, unseen, mount)
    assert host.row("sched tracepoints") == Check("sched tracepoints", False, unseen, mount)
    assert host.missing() == ["tracefs", "kvm tracepoints", "sched tracepoints"]


UNLOCK = "boot with lockdown=integrity, or without lockdown="


def test_lockdown_comes_before_everything_that_it_closes(host: Host) -> None:
    (host.sys / "kernel/security/lockdown").write_text("none integrity [confidentiality]\n")
    host.tracefs.rename(host.root / "elsewhere")
    host.tracefs.mkdir()
    closed = "the kernel is locked down (confidentiality), so tracefs is closed"
    unseen = "cannot be seen without tracefs"
    host.caps(0)
    missing = [check for check in host.run() if not check.ok]
    assert [(check.name, check.remedy) for check in missing[:4]] == [
        ("lockdown", UNLOCK),
        ("tracefs", UNLOCK),
        ("kvm tracepoints", UNLOCK),
        ("sched tracepoints", UNLOCK),
    ]
    assert [check.detail for check in missing[1:4]] == [closed, unseen, unseen]
    assert [check.name for check in missing[4:]] == ["capabilities"]


def test_formats_that_lockdown_closes_have_its_remedy(nobodys_host: Host) -> None:
    host = nobodys_host
    with as_owner():
        (host.sys / "kernel/security/lockdown").write_text("none integrity [confidentiality]\n")
    shut(host.tracefs / "events/kvm/kvm_exit/format")
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", False, "kvm/kvm_exit: Permission denied", UNLOCK)


def test_an_empty_tracefs_points_to_lockdown(host: Host) -> None:
    (host.sys / "kernel/security/lockdown").unlink()
    host.tracefs.rename(host.root / "elsewhere")
    host.tracefs.mkdir()
    host.write(host.proc / "self/mountinfo", f"22 21 0:13 / {host.tracefs} rw,nosuid shared:7 - tracefs nodev rw\n")
    detail = f"mounted on {host.tracefs}, but empty: the kernel may be locked down"
    assert host.row("tracefs") == Check("tracefs", False, detail, UNLOCK)
    assert host.row("kvm tracepoints").remedy == UNLOCK


def test_tracefs_is_found_below_debugfs(host: Host) -> None:
    debugfs = host.sys / "kernel/debug/tracing"
    debugfs.parent.mkdir()
    host.tracefs.rename(debugfs)
    assert find_tracefs(host.sys) == debugfs
    assert host.missing() == []
    host.tracefs.mkdir()
    assert find_tracefs(host.sys) == debugfs
    assert host.row("tracefs") == Check("tracefs", True, str(debugfs))


def test_tracefs_without_events_counts_as_missing(host: Host) -> None:
    (host.tracefs / "events").rename(host.tracefs / "instances")
    detail = f"{host.tracefs}/events: No such file or directory"
    assert host.row("tracefs") == Check("tracefs", False, detail, "mount -t tracefs nodev /sys/kernel/tracing")


READ = "run as root, or with CAP_DAC_READ_SEARCH (tracefs is mounted for root alone)"


def test_tracefs_that_only_root_can_read_counts_as_missing(nobodys_host: Host) -> None:
    host = nobodys_host
    shut(host.tracefs)
    assert find_tracefs(host.sys) == host.tracefs
    assert host.row("tracefs") == Check("tracefs", False, f"{host.tracefs}: Permission denied", READ)
    detail = "kvm/kvm_exit: Permission denied"
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", False, detail, READ)


def test_formats_that_only_root_can_read_count_as_missing(nobodys_host: Host) -> None:
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
        ("ppc64le", ""),
    ],
)
def test_without_kvm_all_its_tracepoints_are_missing(host: Host, machine: str, remedy: str) -> None:
    host.machine = machine
    (host.tracefs / "events/kvm").rename(host.tracefs / "events/xen")
    none = "No such file or directory"
    detail = ", ".join(f"{event}: {none}" for event in KVM_EVENTS)
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", False, detail, remedy)


def test_each_missing_tracepoint_is_named(host: Host) -> None:
    (host.tracefs / "events/kvm/kvm_userspace_exit/format").unlink()
    (host.tracefs / "events/sched/sched_process_exit/format").unlink()
    detail = "kvm_userspace_exit: No such file or directory"
    remedy = "arm64 has KVM built in: a kernel with CONFIG_KVM=y, booted at EL2"
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", False, detail, remedy)
    detail, remedy = "sched_process_exit: No such file or directory", "a kernel with CONFIG_TRACEPOINTS=y"
    assert host.row("sched tracepoints") == Check("sched tracepoints", False, detail, remedy)


def test_a_kvm_without_kvm_exit_needs_a_newer_kernel(host: Host) -> None:
    (host.tracefs / "events/kvm/kvm_exit/format").unlink()
    detail, remedy = "kvm_exit: No such file or directory", "boot a newer kernel"
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", False, detail, remedy)


def test_openeulers_kernels_need_one_tracepoint_more(host: Host) -> None:
    text = (FORMATS / "aarch64-openeuler-5.10/kvm_exit.format").read_text()
    host.write(host.tracefs / "events/kvm/kvm_exit/format", text)
    detail = "kvm_trap_enter: No such file or directory"
    remedy = "arm64 has KVM built in: a kernel with CONFIG_KVM=y, booted at EL2"
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", False, detail, remedy)
    host.write(host.tracefs / "events/kvm/kvm_trap_enter/format", "name: x\n")
    detail = "kvm_exit, kvm_trap_enter, kvm_entry, kvm_userspace_exit"
    assert host.row("kvm tracepoints") == Check("kvm tracepoints", True, detail)


def test_the_device_dev_kvm_is_not_needed(host: Host) -> None:
    (host.root / "dev/kvm").unlink()
    row = host.row("/dev/kvm")
    detail = "absent: this host runs no VM, or its devices are hidden from here"
    assert (row, row.state) == (Check("/dev/kvm", True, detail, needed=False), "not needed")
    assert status(host.run()) == 0


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("none [integrity] confidentiality\n", Check("lockdown", True, "integrity")),
        (
            "none integrity [confidentiality]\n",
            Check("lockdown", True, "confidentiality: BPF may not read kernel memory, but there are tracepoints"),
        ),
        ("", Check("lockdown", True, "unknown")),
        (None, Check("lockdown", True, "none: the kernel or this container has no lockdown file")),
    ],
)
def test_a_lockdown_that_leaves_the_tracepoints_is_accepted(host: Host, text: str | None, row: Check) -> None:
    path = host.sys / "kernel/security/lockdown"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert host.row("lockdown") == row


def test_lockdown_confidentiality_from_the_boot_on_is_refused(host: Host) -> None:
    """The kernel then makes no file in tracefs."""
    (host.sys / "kernel/security/lockdown").write_text("none integrity [confidentiality]\n")
    shutil.rmtree(host.tracefs)
    host.tracefs.mkdir()
    detail = "confidentiality: forbids BPF to read kernel memory, and tracefs"
    remedy = "boot with lockdown=integrity, or without lockdown="
    assert host.row("lockdown") == Check("lockdown", False, detail, remedy)


def test_a_lockdown_file_that_cannot_be_read_is_accepted(host: Host) -> None:
    path = host.sys / "kernel/security/lockdown"
    path.unlink()
    path.mkdir()
    assert host.row("lockdown") == Check("lockdown", True, "unknown: Is a directory")


def test_btf_is_not_needed(host: Host) -> None:
    (host.sys / "kernel/btf/vmlinux").unlink()
    row = host.row("BTF")
    assert (row, row.state) == (Check("BTF", True, "not used", needed=False), "not needed")
    assert status(host.run()) == 0


def test_without_btf_the_time_of_exits_is_not_split(host: Host) -> None:
    assert host.row("time split").needed
    vmlinux = host.sys / "kernel/btf/vmlinux"
    vmlinux.unlink()
    what = f"the time of exits is not split: {vmlinux}: No such file or directory"
    assert host.row("time split") == Check("time split", True, what, needed=False)
    assert host.missing() == []


def test_btf_on_x86(host: Host) -> None:
    """The row says which tracepoint is read."""
    host.machine, vmlinux = "x86_64", host.sys / "kernel/btf/vmlinux"
    vmlinux.write_text("")
    assert host.row("BTF") == Check("BTF", True, "unknown: kvm_exit cannot be read", needed=False)
    kvm_exit = (FORMATS / "x86_64-svm-6.12/kvm_exit.format").read_text()
    (host.tracefs / "events/kvm/kvm_exit/format").write_text(kvm_exit)
    classic = "kvm_exit is read from its classic tracepoint, which costs more: "
    vmlinux.write_bytes(b"")
    assert host.row("BTF") == Check("BTF", True, f"{classic}BTF of 0 bytes", needed=False)
    vmlinux.unlink()
    assert host.row("BTF") == Check("BTF", True, f"{classic}{vmlinux}: No such file or directory", needed=False)
    host.release = "5.10.0-30-amd64"
    assert host.row("BTF") == Check("BTF", True, "kvm_exit is read from its raw tracepoint")
    assert host.missing() == []


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
def test_a_jit_that_is_off_is_accepted_and_its_remedy_is_shown(host: Host, text: str | None, row: Check) -> None:
    path = host.proc / "sys/net/core/bpf_jit_enable"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert host.row("BPF JIT") == row
    assert host.missing() == []
