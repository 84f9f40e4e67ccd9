"""The program names and options of Firecracker."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.vm import Vm
from exporter.naming.vcpu import vcpu_index
from exporter.naming.vmm.firecracker import FIRECRACKER
from tests.unit.naming.processes import UUID, known


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/firecracker", "--id", "f-1", "--api-sock", "/a.sock"], "f-1"),
        (["firecracker-v1.7", "--id=f-1", "--start-time-us=1"], "f-1"),
        (["firecracker-v1.7.0-x86_64", "--id=f-1"], "f-1"),
        (["/firecracker", "--id=f-1", "--start-time-us=1"], "f-1"),
        (["firecracker", "--id"], "42"),
        (["firecracker", "--no-api", "--config-file", "c"], "42"),
    ],
)
def test_the_options_give_the_name(tmp_path: Path, argv: list[str], name: str) -> None:
    assert known(tmp_path, argv) == Vm(42, name, "", "firecracker")


def test_releases_before_0_22_have_the_index_behind_the_comm_without_a_space(tmp_path: Path) -> None:
    for comm in (b"fc_vcpu0", b"fc_vcpu 0"):
        assert vcpu_index(comm, None, 1, 2, tmp_path) == "0"


def test_the_sample_command_line_is_read() -> None:
    vm = Vm(42, "web,1", UUID, "firecracker")
    assert FIRECRACKER.sample_command_line(vm, "aarch64") == ["firecracker", "--id", "web,1"]
