"""The program names and options of crosvm."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.vm import Vm
from exporter.naming.vmm.crosvm import CROSVM
from tests.unit.naming.processes import UUID, known


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/crosvm", "run", "--name", "c-1", "bzImage"], "c-1"),
        (["/bin/crosvm-direct", "run", "--name", "c-1"], "c-1"),
        (["crosvm", "run", "--name=c-1", "-p", "--name=no"], "c-1"),
        (["crosvm", "run", "--params", "--name", "no"], "42"),
        (["crosvm", "run", "-s", "/run/crosvm/c-2.sock"], "c-2"),
        (["crosvm", "run", "-s", "/run/crosvm.sock"], "42"),
    ],
)
def test_the_options_give_the_name(tmp_path: Path, argv: list[str], name: str) -> None:
    assert known(tmp_path, argv) == Vm(42, name, "", "crosvm")


def test_the_sample_command_line_is_read() -> None:
    vm = Vm(42, "web,1", UUID, "crosvm")
    assert CROSVM.sample_command_line(vm, "aarch64") == ["crosvm", "run", "--name", "web,1"]
