"""Dragonball is the VMM inside the shim of Kata Containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.vm import Vm
from exporter.naming.vcpu import vcpu_index
from exporter.naming.vmm.dragonball import DRAGONBALL
from tests.unit.naming.processes import UUID, known

SANDBOX = "0a" * 32
KATA = (
    "/opt/kata/bin/containerd-shim-kata-v2 -namespace k8s.io -address /run/containerd/containerd.sock "
    f"-publish-binary /usr/bin/containerd -id {SANDBOX}"
)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (KATA, SANDBOX),
        (f"{KATA} -debug", SANDBOX),
        ("containerd-shim-kata-v2 -debug -id k-1 -namespace k8s.io", "k-1"),
        ("containerd-shim-kata-v2 --id=k-1", "k-1"),
        ("containerd-shim-kata-dragonball-v2 -id=k-1", "k-1"),
        ("containerd-shim-kata-v2 -namespace k8s.io", "42"),
        ("containerd-shim-kata-v2 -id", "42"),
    ],
)
def test_the_options_of_the_shim_give_the_name(tmp_path: Path, command: str, name: str) -> None:
    assert known(tmp_path, command.split(), comm="containerd-shim\n") == Vm(42, name, "", "dragonball")


def test_the_shim_of_another_runtime_is_not_dragonball(tmp_path: Path) -> None:
    argv = ["/usr/bin/containerd-shim-runc-v2", "-id", "c-1"]
    assert known(tmp_path, argv, comm="containerd-shim\n") == Vm(42, "42", "", "containerd-shim-runc-v2")


def test_the_comm_of_a_vcpu_gives_its_index(tmp_path: Path) -> None:
    assert vcpu_index(b"db_vcpu1", None, 1, 2, tmp_path) == "1"


def test_the_sample_command_line_is_read() -> None:
    vm = Vm(42, "web,1", UUID, "dragonball")
    assert DRAGONBALL.sample_command_line(vm, "aarch64") == ["containerd-shim-kata-v2", "-id", "web,1"]
