"""The tracepoint formats of the host are read. If KVM or tracefs is missing, the error names the remedy."""

from __future__ import annotations

import errno
import os
import platform
import re
from pathlib import Path

import pytest

from exporter.kernel import host, program
from exporter.kernel.isa import registry
from tests.support.paths import FORMATS


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """The folder events/kvm in a fake sysfs, with the formats of a real kernel."""
    path = tmp_path / "kernel/tracing/events/kvm"
    for name in ("kvm_exit", "kvm_userspace_exit"):
        (path / name).mkdir(parents=True)
        (path / name / "format").write_bytes((FORMATS / "aarch64-6.12" / f"{name}.format").read_bytes())
    return path


def test_formats_are_read(tmp_path: Path, events: Path) -> None:
    found = host.parsed(host.required_texts(tmp_path))
    assert (found.kvm_exit.name, found.kvm_userspace_exit.name) == ("kvm_exit", "kvm_userspace_exit")
    texts = host.read_texts(tmp_path)
    assert texts == {name: (events / name / "format").read_text() for name in ("kvm_exit", "kvm_userspace_exit")}


@pytest.mark.parametrize(
    ("machine", "remedy"),
    [
        ("x86_64", "modprobe kvm_intel (Intel) or modprobe kvm_amd (AMD)"),
        ("aarch64", "arm64 has KVM built in: a kernel with CONFIG_KVM=y, booted at EL2"),
    ],
)
def test_without_kvm_the_error_names_the_tracepoint_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, remedy: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    (tmp_path / "kernel/tracing/events/sched").mkdir(parents=True)
    assert host.read_texts(tmp_path) is None
    assert host.kvm_remedy() == remedy
    with pytest.raises(program.LoadError) as caught:
        host.required_texts(tmp_path)
    assert caught.value.what == "the tracepoint kvm:kvm_exit does not exist: KVM is not loaded"
    assert caught.value.remedy == remedy
    assert host.never_comes(tmp_path) is None


def test_a_machine_that_is_not_supported_never_has_kvm_exit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "ppc64le")
    (tmp_path / "kernel/tracing/events/sched").mkdir(parents=True)
    error = host.never_comes(tmp_path)
    assert error
    remedy = f"run on an {' or '.join(registry.BY_MACHINE)} host"
    assert (error.what, error.remedy) == ("the tracepoint kvm:kvm_exit does not exist: this machine is ppc64le", remedy)
    with pytest.raises(program.LoadError, match=f"^{re.escape(str(error))}$"):
        host.required_texts(tmp_path)


def test_a_kvm_without_kvm_exit_never_gets_it(tmp_path: Path, events: Path) -> None:
    """KVM of riscv64 before Linux 6.11. KVM is loaded, because its kvm_userspace_exit exists."""
    assert host.never_comes(tmp_path) is None
    (events / "kvm_exit/format").unlink()
    error = host.never_comes(tmp_path)
    assert error
    assert (error.what, error.remedy) == (
        "the tracepoint kvm:kvm_exit does not exist: KVM is loaded, but this kernel's KVM has no such tracepoint",
        "boot a newer kernel",
    )
    with pytest.raises(program.LoadError, match=f"^{re.escape(str(error))}$"):
        host.required_texts(tmp_path)


def test_without_tracefs_the_remedy_is_to_mount_it(tmp_path: Path) -> None:
    with pytest.raises(program.LoadError) as caught:
        host.read_texts(tmp_path)
    assert str(caught.value) == "tracefs is not mounted; mount -t tracefs nodev /sys/kernel/tracing"


UNLOCK = "boot with lockdown=integrity, or without lockdown="


def lock_down(sys: Path) -> None:
    (sys / "kernel/security").mkdir(parents=True)
    (sys / "kernel/security/lockdown").write_text("none integrity [confidentiality]\n")


def test_lockdown_is_named_before_the_tracefs_that_it_closes(tmp_path: Path) -> None:
    """The kernel of Talos boots with lockdown=confidentiality: tracefs is mounted, and has no file."""
    lock_down(tmp_path)
    (tmp_path / "kernel/tracing").mkdir()
    with pytest.raises(program.LoadError) as caught:
        host.read_texts(tmp_path)
    assert str(caught.value) == f"the kernel is locked down (confidentiality), so tracefs is closed; {UNLOCK}"


def test_lockdown_is_named_if_it_forbids_to_open_a_format(
    tmp_path: Path, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lockdown that begins after the boot leaves the files in tracefs, but nobody may open them."""
    lock_down(tmp_path)
    read_text = Path.read_text

    def refuse(path: Path, **options: str) -> str:
        if path.is_relative_to(events):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        return read_text(path, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(program.LoadError) as caught:
        host.read_texts(tmp_path)
    assert str(caught.value) == f"the kernel is locked down (confidentiality), so tracefs is closed; {UNLOCK}"


@pytest.mark.parametrize("kind", ["tracefs", "sysfs"])
def test_an_empty_tracefs_points_to_lockdown(tmp_path: Path, kind: str) -> None:
    """In a container, the file that tells the mode of lockdown may be missing.

    If the host has no tracefs, the container gets the empty folder below it, which belongs to sysfs.
    """
    folder, mounts = tmp_path / "kernel/tracing", tmp_path / "proc/self/mountinfo"
    folder.mkdir(parents=True)
    mounts.parent.mkdir(parents=True)
    mounts.write_text(f"21 27 0:20 / /sys rw - sysfs sysfs rw\n22 21 0:13 / {folder} rw,nosuid - {kind} {kind} rw\n")
    with pytest.raises(program.LoadError) as caught:
        host.read_texts(tmp_path, tmp_path / "proc")
    assert (
        str(caught.value)
        == {
            "tracefs": f"tracefs is mounted on {folder}, but empty: the kernel may be locked down; {UNLOCK}",
            "sysfs": "tracefs is not mounted; mount -t tracefs nodev /sys/kernel/tracing",
        }[kind]
    )


def test_a_format_that_cannot_be_read_is_an_error(tmp_path: Path, events: Path) -> None:
    (events / "kvm_exit/format").write_text("name: kvm_exit\n")
    with pytest.raises(program.LoadError) as caught:
        host.parsed(host.required_texts(tmp_path))
    assert caught.value.what == ("a tracepoint format of KVM cannot be read: line 2: the file ends without a print fmt")
    (events / "kvm_exit/format").write_bytes(b"\xff")
    with pytest.raises(program.LoadError, match=r"^cannot read .*/events/kvm: 'utf-8' codec can't decode"):
        host.parsed(host.required_texts(tmp_path))
    os.remove(events / "kvm_exit/format")
    (events / "kvm_exit/format").mkdir()
    with pytest.raises(program.LoadError, match=r"^cannot read .*/events/kvm/kvm_exit/format: Is a directory$"):
        host.parsed(host.required_texts(tmp_path))
