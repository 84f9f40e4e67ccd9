"""The program names and options of gVisor, which runs its sandbox in KVM with --platform=kvm."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.vm import Vm
from exporter.naming.vmm.gvisor import GVISOR
from tests.unit.naming.processes import UUID, known

SANDBOX = "0a" * 32


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (f"runsc-sandbox --root=/run/runsc --platform=kvm boot --bundle=/run/b --controller-fd=3 {SANDBOX}", SANDBOX),
        ("/usr/bin/runsc boot --bundle=/run/b c-1", "c-1"),
        ("runsc-sandbox boot --bundle=/run/b", "42"),
        ("runsc-sandbox boot", "42"),
        ("runsc-sandbox --root=/run/runsc c-1", "42"),
    ],
)
def test_the_last_argument_of_boot_is_the_name(tmp_path: Path, command: str, name: str) -> None:
    assert known(tmp_path, command.split(), comm="exe\n", exe="/memfd:runsc") == Vm(42, name, "", "gvisor")


def test_the_sample_command_line_is_read() -> None:
    vm = Vm(42, "web,1", UUID, "gvisor")
    assert GVISOR.sample_command_line(vm, "aarch64") == ["runsc-sandbox", "boot", "web,1"]
