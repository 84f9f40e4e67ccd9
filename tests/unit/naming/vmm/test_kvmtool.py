"""The program names and options of kvmtool."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.vm import Vm
from exporter.naming.vmm.kvmtool import KVMTOOL
from tests.unit.naming.processes import UUID, known


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["lkvm", "run", "-k", "Image", "--name", "k-1"], "k-1"),
        (["/usr/bin/lkvm", "run", "-n", "mode=tap"], "42"),
        (["kvm", "run", "--name=k-1"], "k-1"),
    ],
)
def test_the_options_give_the_name(tmp_path: Path, argv: list[str], name: str) -> None:
    assert known(tmp_path, argv) == Vm(42, name, "", "kvmtool")


def test_the_program_kvm_is_kvmtool_only_with_the_subcommand_run(tmp_path: Path) -> None:
    assert known(tmp_path, ["kvm", "-name", "run"]) == Vm(42, "run", "", "qemu")


def test_the_sample_command_line_is_read() -> None:
    vm = Vm(42, "web,1", UUID, "kvmtool")
    assert KVMTOOL.sample_command_line(vm, "aarch64") == ["lkvm", "run", "--name", "web,1"]
