"""The index of a vCPU is taken from the tracepoint, from its thread's comm, or from its cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.records import ThreadKey, VcpuRecord, VcpuTotals
from exporter.naming.vcpu import nameable, vcpu_index


@pytest.mark.parametrize(
    ("comm", "index"),
    [
        (b"CPU 3/KVM", "3"),
        (b"CPU 3/KVM\0\0\0\0\0\0\0", "3"),
        (b"CPU 3/KVM\0junk", "3"),
        (b"CPU 12/KVM", "12"),
        (b"CPU 1/KVM", "1"),
        (b"CPU 10/KVM", "10"),
        (b"CPU 1/TCG", ""),
        (b"CPU 01/KVM", ""),
        (b"CPU /KVM", ""),
        (b"CPU 1/KVM ", ""),
        (b"CPU 1/KVM\n", ""),
        (b"xCPU 1/KVM", ""),
        ("CPU ٣/KVM".encode(), ""),
        (b"fc_vcpu 0", "0"),
        (b"vcpu7", "7"),
        (b"crosvm_vcpu11", "11"),
        (b"kvm-vcpu-2", "2"),
        (b"qemu-system-aar", ""),
        (b"", ""),
    ],
)
def test_the_index_comes_from_the_comm_or_else_from_the_tracepoint(tmp_path: Path, comm: bytes, index: str) -> None:
    assert vcpu_index(comm, None, 1, 2, tmp_path) == index
    assert vcpu_index(comm, 5, 1, 2, tmp_path) == (index or "5")
    assert vcpu_index(comm, 0, 1, 2, tmp_path) == (index or "0")


def test_the_apic_id_of_x86_is_not_the_index(tmp_path: Path) -> None:
    """QEMU with two sockets of six cores: its vCPU 6 is the first of the second socket, and its vcpu_id is 8."""
    assert vcpu_index(b"CPU 6/KVM", 8, 1, 2, tmp_path) == "6"


@pytest.mark.parametrize(
    ("cgroup", "index"),
    [
        (r"0::/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/vcpu3", "3"),
        ("5:cpuset:/machine/web.libvirt-qemu/vcpu12\n1:name=systemd:/x", "12"),
        ("2:freezer:/x\n5:cpuset:/machine/web.libvirt-qemu/vcpu0", "0"),
        ("0::/x/libvirt/emulator", ""),
        ("0::/x/libvirt/vcpu3/more", ""),
        ("0::/x/libvirt/vcpu03", ""),
        ("0::/x/libvirt/avcpu3", ""),
        ("garbage", ""),
        ("", ""),
    ],
)
def test_the_index_comes_from_the_cgroup_if_the_comm_has_none(tmp_path: Path, cgroup: str, index: str) -> None:
    thread = tmp_path / "1" / "task" / "2"
    thread.mkdir(parents=True)
    (thread / "cgroup").write_text(cgroup)
    assert vcpu_index(b"qemu-kvm", None, 1, 2, tmp_path) == index
    assert vcpu_index(b"qemu-kvm", 8, 1, 2, tmp_path) == "8"
    assert vcpu_index(b"CPU 9/KVM", None, 1, 2, tmp_path) == "9"
    assert vcpu_index(b"CPU 9/KVM", 8, 1, 2, tmp_path) == "9"


def test_only_a_vcpu_whose_comm_states_no_index_waits_for_its_first_exit() -> None:
    def record(comm: bytes, vcpu_id: int | None, *, alive: bool = True) -> VcpuRecord:
        return VcpuRecord(ThreadKey(1, 2, 3), comm, vcpu_id, VcpuTotals(), (), None, alive)

    assert nameable(record(b"CPU 6/KVM", None), vcpu_ids=True)
    assert nameable(record(b"CPU 6/KVM", 8), vcpu_ids=True)
    assert nameable(record(b"qemu-kvm", 8), vcpu_ids=True)
    assert nameable(record(b"qemu-kvm", 0), vcpu_ids=True)
    assert not nameable(record(b"qemu-kvm", None), vcpu_ids=True)
    assert nameable(record(b"qemu-kvm", None), vcpu_ids=False)
    assert nameable(record(b"qemu-kvm", None, alive=False), vcpu_ids=True)
