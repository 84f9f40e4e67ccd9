"""The identity of the VM that a process runs is read from a fake /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.common.procfs import cgroup_paths, read_head, start_time
from exporter.model.vm import Vm
from exporter.naming.cgroup import libvirt_domain, vcpu_of_thread
from exporter.naming.cmdline import split
from exporter.naming.identity import identify
from exporter.naming.vcpu import vcpu_index
from tests.unit.naming.processes import known, make


def test_the_vmm_is_known_by_argv_0_or_executable_or_comm(tmp_path: Path) -> None:
    make(tmp_path, 1, ["microvm@web", "--id", "f"], exe="/nix/store/x/bin/firecracker")
    make(tmp_path, 2, ["x", "--id", "f"], exe="/usr/bin/firecracker (deleted)")
    make(tmp_path, 3, [], comm="qemu-system-aar\n")
    make(tmp_path, 4, [], comm="our vm\n")
    make(tmp_path, 5, b"qemu: web", comm="x\n")
    assert [identify(pid, tmp_path).vm for pid in range(1, 6)] == [
        Vm(1, "f", "", "firecracker"),
        Vm(2, "f", "", "firecracker"),
        Vm(3, "3", "", "qemu"),
        Vm(4, "4", "", "our_vm"),
        Vm(5, "5", "", "qemu"),
    ]


def test_a_comm_that_is_only_the_start_of_a_longer_program_name_is_ignored(tmp_path: Path) -> None:
    make(tmp_path, 1, ["cloud-hypervisor-fork"], comm="cloud-hyperviso\n")
    make(tmp_path, 2, ["x"], exe="/opt/cloud-hypervisor-fork", comm="cloud-hyperviso\n")
    make(tmp_path, 3, ["kvm-web"], comm="kvm\n")
    make(tmp_path, 4, ["qemu-web"], comm="qemu\n")
    assert [identify(pid, tmp_path).vm for pid in range(1, 5)] == [
        Vm(1, "1", "", "cloud-hypervisor-fork"),
        Vm(2, "2", "", "x"),
        Vm(3, "3", "", "qemu"),
        Vm(4, "4", "", "qemu"),
    ]


@pytest.mark.parametrize(
    ("argv", "label"),
    [(["/opt/our vmm!"], "our_vmm_"), (["/opt/" + "v" * 100], "v" * 64), (["/"], "unknown"), ([], "unknown")],
)
def test_the_label_of_an_unknown_program_is_its_base_name(tmp_path: Path, argv: list[str], label: str) -> None:
    assert known(tmp_path, argv) == Vm(42, "42", "", label)


def test_hostile_strings_of_a_process_are_cut_and_decoded(tmp_path: Path) -> None:
    make(tmp_path, 1, b'qemu-kvm\0-name\0guest=a"b\n\xff{}\\\0-uuid\0' + b"u" * 70000 + b"\0")
    make(tmp_path, 2, ["qemu-kvm", "-name", "n" * 65536])
    make(tmp_path, 3, b"\0" * 200000)
    make(tmp_path, 4, b"qemu-kvm\0" + b"x\0" * 524282 + b"\0-name\0a-name-cut-by-the-limit\0")
    make(tmp_path, 5, b"\xff\xfe\0\0")
    assert identify(1, tmp_path).vm == Vm(1, 'a"b\n�{}\\', "u" * 64, "qemu")
    assert identify(2, tmp_path).vm == Vm(2, "n" * 128, "", "qemu")
    assert identify(3, tmp_path).vm == Vm(3, "3", "", "unknown")
    assert identify(4, tmp_path).vm == Vm(4, "4", "", "qemu")
    assert identify(5, tmp_path).vm == Vm(5, "5", "", "__")


def test_a_read_is_limited_and_an_argument_that_is_cut_off_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "cmdline"
    file.write_bytes(b"qemu\0-name\0web-server\0")
    assert read_head(file, 14) == b"qemu\0-name\0web"
    assert split(read_head(file, 14)) == ["qemu", "-name"]
    assert split(b"") == []
    assert split(b"\0") == [""]


def test_a_process_that_has_ended_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "8").write_text("not a folder")
    (tmp_path / "9" / "cmdline").mkdir(parents=True)
    for pid in (6, 7, 8, 9):
        assert identify(pid, tmp_path).vm == Vm(pid, str(pid), "", "unknown")
        assert start_time(tmp_path / str(pid)) is None
        assert vcpu_index(b"x", None, pid, pid, tmp_path) == ""


@pytest.mark.parametrize(
    ("stat", "expected"),
    [
        ("42 (qemu) S " + "0 " * 18 + "12345 0 0\n", 12345),
        ("42 (a) b) (c) S " + "0 " * 18 + "12345 0\n", 12345),
        ("42 (x\n) S " + "0 " * 18 + "18446744073709551615\n", 18446744073709551615),
        ("42 (qemu) S " + "0 " * 17 + "1\n", None),
        ("42 (qemu) S " + "0 " * 18 + "-1 0\n", None),
        ("42 qemu S " + "0 " * 30, None),
        ("", None),
    ],
)
def test_the_start_time_is_field_22_of_stat(tmp_path: Path, stat: str, expected: int | None) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "stat").write_text(stat)
    assert start_time(tmp_path / "42") == expected


def test_this_process_has_an_identity_without_a_vm() -> None:
    pid = os.getpid()
    proc = Path("/proc")
    vm = identify(pid, proc).vm
    assert (vm.pid, vm.name, vm.uuid) == (pid, str(pid), "")
    assert vm.vmm not in {"", "unknown"}
    started = start_time(proc / str(pid))
    assert started is not None
    assert started > 0
    assert start_time(proc / str(pid)) == started


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=40), st.integers(0, 9))
def test_identify_raises_no_exception_whatever_proc_contains(
    tmp_path: Path, cmdline: bytes, cgroup: bytes, comm: bytes, pid: int
) -> None:
    folder = tmp_path / str(pid)
    folder.mkdir(exist_ok=True)
    for name, content in {
        "cmdline": cmdline,
        "cgroup": cgroup,
        "comm": comm,
        "stat": cgroup + cmdline,
    }.items():
        (folder / name).write_bytes(content)
    vm = identify(pid, tmp_path).vm
    assert vm.pid == pid
    assert 0 < len(vm.name) <= 128
    assert 0 < len(vm.vmm) <= 64
    assert len(vm.uuid) <= 64
    assert start_time(tmp_path / str(pid)) is None or cgroup + cmdline
    paths = cgroup_paths(folder)
    assert all(path == "" or path.startswith("/") for path in paths)
    libvirt_domain(paths)
    assert vcpu_of_thread(paths) == "" or vcpu_of_thread(paths).isdigit()
