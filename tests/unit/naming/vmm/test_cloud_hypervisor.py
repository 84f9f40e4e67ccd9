"""The program names and options of Cloud Hypervisor."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.vm import Vm
from exporter.naming.vmm.cloud_hypervisor import CLOUD_HYPERVISOR
from tests.unit.naming.processes import UUID, known


@pytest.mark.parametrize(
    ("argv", "name", "uuid"),
    [
        (["cloud-hypervisor", "--api-socket", "/run/x/h-1.sock"], "h-1", ""),
        (["cloud-hypervisor", "--api-socket", "path=/run/x/h-1.sock"], "h-1", ""),
        (["cloud-hypervisor", "--api-socket", "/run/vc/vm/0a1b/clh-api.sock"], "0a1b", ""),
        (["cloud-hypervisor", "--api-socket=/run/libvirt/ch/h-1-socket"], "h-1", ""),
        (["cloud-hypervisor", "--api-socket", "/tmp/ch.sock"], "42", ""),
        (["./cloud-hypervisor", "--api-socket", "path=/tmp/hypervisor.sock"], "42", ""),
        (["cloud-hypervisor", "--api-socket", "/var/run/virtink/ch.sock", "--console", "pty"], "42", ""),
        (["cloud-hypervisor", "--api-socket", "/run/virtink/cloud-hypervisor-api.sock"], "42", ""),
        (["cloud-hypervisor", "--api-socket", "/var/lib/cloud-hypervisor/vmm.sock"], "42", ""),
        (["cloud-hypervisor", "--api-socket", "/run/user/1000/ch.sock"], "42", ""),
        (["cloud-hypervisor", "--api-socket", "/run/user/1000/virtink/ch.sock"], "42", ""),
        (["cloud-hypervisor", "--api-socket", "/home/ann/ch.sock"], "42", ""),
        (["cloud-hypervisor", "--api-socket", "/home/ann/h-1/ch.sock"], "h-1", ""),
        (["cloud-hypervisor", "--api-socket", "/tmp/ch-1.sock"], "ch-1", ""),
        (["cloud-hypervisor", "--api-socket", "fd=3"], "42", ""),
        (["cloud-hypervisor", "--platform", "oem_strings=a,uuid=U"], "42", "U"),
        (["cloud-hypervisor", "--cmdline", "--api-socket=/x/no.sock"], "42", ""),
        (["cloud-hypervisor-static-aarch64", "--api-socket", "h-1.sock"], "h-1", ""),
        (["cloud-hypervisor-v38.0", "--api-socket", "h-1.sock"], "h-1", ""),
    ],
)
def test_the_options_give_name_and_uuid(tmp_path: Path, argv: list[str], name: str, uuid: str) -> None:
    assert known(tmp_path, argv) == Vm(42, name, uuid, "cloud-hypervisor")


def test_a_comm_without_the_last_letter_is_recognised(tmp_path: Path) -> None:
    argv = ["microvm@web", "--api-socket", "web.sock"]
    assert known(tmp_path, argv, comm="cloud-hyperviso\n") == Vm(42, "web", "", "cloud-hypervisor")


def test_the_sample_command_line_is_read() -> None:
    vm = Vm(42, "web,1", UUID, "cloud-hypervisor")
    assert CLOUD_HYPERVISOR.sample_command_line(vm, "aarch64") == [
        "cloud-hypervisor",
        "--api-socket",
        "/run/web,1.sock",
        "--platform",
        f"uuid={UUID}",
    ]
