"""The program names and options of VirtualBox, whose builds for KVM run vCPUs in the kernel's KVM."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.vm import Vm
from exporter.naming.vcpu import vcpu_index
from exporter.naming.vmm.virtualbox import VIRTUALBOX
from tests.unit.naming.processes import UUID, known


@pytest.mark.parametrize(
    ("argv", "name", "uuid"),
    [
        (["/usr/lib/virtualbox/VirtualBoxVM", "--comment", "web 1", "--startvm", UUID], "web 1", UUID),
        (["/usr/lib/virtualbox/VBoxHeadless", "--comment", "web", "--startvm", UUID, "--vrde", "config"], "web", UUID),
        (["VBoxHeadless", "--startvm", "web"], "web", ""),
        (["VBoxHeadless", "-s", "web"], "web", ""),
        (["VirtualBoxVM", "--startvm", UUID], "42", UUID),
        (["VirtualBoxVM", "--comment"], "42", ""),
    ],
)
def test_the_options_give_name_and_uuid(tmp_path: Path, argv: list[str], name: str, uuid: str) -> None:
    assert known(tmp_path, argv) == Vm(42, name, uuid, "virtualbox")


def test_the_comm_of_a_vcpu_gives_its_index(tmp_path: Path) -> None:
    assert vcpu_index(b"EMT-3", None, 1, 2, tmp_path) == "3"
    assert vcpu_index(b"EMT", None, 1, 2, tmp_path) == "0"  # a VM with one vCPU


def test_the_sample_command_line_is_read() -> None:
    vm = Vm(42, "web,1", UUID, "virtualbox")
    assert VIRTUALBOX.sample_command_line(vm, "aarch64") == ["VBoxHeadless", "--comment", "web,1", "--startvm", UUID]
    assert VIRTUALBOX.sample_command_line(Vm(42, "web", "", "virtualbox"), "x86_64") == [
        "VBoxHeadless",
        "--comment",
        "web",
    ]
