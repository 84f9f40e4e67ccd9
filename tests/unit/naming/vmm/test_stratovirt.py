"""StratoVirt's program names and options."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.vm import Vm
from exporter.naming.vcpu import vcpu_index
from exporter.naming.vmm.stratovirt import STRATOVIRT
from tests.unit.naming.processes import UUID, known

SANDBOX = "sandbox-" + "0a" * 32
KATA = (
    f"/usr/bin/stratovirt -name {SANDBOX} -uuid {UUID} -smp 1 -m 2048 -kernel /k -append root=/dev/vda "
    "-qmp unix:/run/vc/vm/q.sock,server,nowait -D -disable-seccomp -machine type=microvm"
)


@pytest.mark.parametrize(
    ("command", "name", "uuid"),
    [
        (KATA, SANDBOX, UUID),
        (f"/usr/bin/stratovirt -machine virt -disable-seccomp -name sv-1 -uuid {UUID} -smp 1", "sv-1", UUID),
        ("stratovirt-2.4.0 -freeze -daemonize -S -name sv-1", "sv-1", ""),
        ("stratovirt -D -name sv-1", "sv-1", ""),
        ("stratovirt -name sv-1 -uuid -smp 1", "sv-1", ""),
        ("stratovirt -name sv-1 -uuid", "sv-1", ""),
        (f"stratovirt -name -uuid {UUID}", "42", UUID),
        ("stratovirt -name", "42", ""),
        ("stratovirt -machine virt -smp 1", "42", ""),
    ],
)
def test_options_state_name_and_uuid(tmp_path: Path, command: str, name: str, uuid: str) -> None:
    assert known(tmp_path, command.split()) == Vm(42, name, uuid, "stratovirt")


def test_each_release_states_the_index_in_the_comm(tmp_path: Path) -> None:
    for comm in (b"CPU 3/Kvm", b"CPU 3/KVM"):
        assert vcpu_index(comm, None, 1, 2, tmp_path) == "3"


def test_the_sample_command_line() -> None:
    vm = Vm(42, "web,1", UUID, "stratovirt")
    assert STRATOVIRT.sample_command_line(vm, "aarch64") == ["stratovirt", "-name", "web,1", "-uuid", UUID]
    assert STRATOVIRT.sample_command_line(Vm(42, "web", "", "stratovirt"), "x86_64") == ["stratovirt", "-name", "web"]
