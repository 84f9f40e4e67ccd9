"""The names of libvirt's domains are read from cgroup paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.vm import Vm
from exporter.naming.cgroup import libvirt_domain
from exporter.naming.identity import identify
from tests.unit.naming.processes import known, make


@pytest.mark.parametrize(
    ("path", "name", "vmm"),
    [
        (r"/machine.slice/machine-qemu\x2d3\x2dweb\x2d1.scope/libvirt/emulator", "web-1", "qemu"),
        (r"/machine.slice/machine-qemu\x2d3\x2dweb\x2d1.scope", "web-1", "qemu"),
        (r"/machine.slice/machine-qemu\x2dweb.scope", "web", "qemu"),
        (r"/machine.slice/machine-qemu\x2d1\x2dcaf\xc3\xa9\x2ex.scope", "café.x", "qemu"),
        (r"/machine.slice/machine-qemu\x2d1\x2d\xff.scope (deleted)", "�", "qemu"),
        (r"/machine.slice/machine-qemu\x2d1\x2da\x2.scope", "a\\x2", "qemu"),
        (r"/machine.slice/machine-ch\x2d1\x2dweb.scope", "web", "cloud-hypervisor"),
        ("/machine/web.libvirt-qemu/emulator", "web", "qemu"),
        ("/machine/qemu-3-web-1.libvirt-qemu", "web-1", "qemu"),
        ("/machine/ch-3-web.libvirt-ch", "web", "cloud-hypervisor"),
        (r"/machine.slice/machine-lxc\x2d3\x2dweb.scope", "42", "daemon"),
        ("/machine.slice/libpod-0a1b.scope", "42", "daemon"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-1.scope",
            "42",
            "daemon",
        ),
        ("/", "42", "daemon"),
    ],
)
@pytest.mark.parametrize("line", ["0::{}", "11:devices:/x\n3:cpu,cpuacct:{}\n1:name=systemd:/y"])
def test_the_cgroup_of_libvirt_gives_name_and_vmm(tmp_path: Path, line: str, path: str, name: str, vmm: str) -> None:
    vm = known(tmp_path, ["daemon"], cgroup=line.format(path) + "\n")
    assert vm == Vm(42, name, "", vmm)


def test_a_name_on_the_command_line_takes_precedence_over_the_cgroup(tmp_path: Path) -> None:
    scope = r"0::/machine.slice/machine-qemu\x2d3\x2dother.scope" + "\n"
    make(tmp_path, 1, ["qemu-kvm", "-name", "guest=web"], cgroup=scope)
    make(tmp_path, 2, ["qemu-kvm", "-nodefaults"], cgroup=scope)
    make(tmp_path, 3, ["crosvm", "run"], cgroup=scope)
    assert identify(1, tmp_path).vm == Vm(1, "web", "", "qemu")
    assert identify(2, tmp_path).vm == Vm(2, "other", "", "qemu")
    assert identify(3, tmp_path).vm == Vm(3, "other", "", "crosvm")


@given(st.text(min_size=1, max_size=30))
def test_any_name_is_read_back_after_the_escaping_of_systemd(name: str) -> None:
    allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_."
    raw = f"qemu-7-{name}".encode(errors="replace")
    escaped = "".join(chr(byte) if chr(byte) in allowed else f"\\x{byte:02x}" for byte in raw)
    domain = libvirt_domain([f"/machine.slice/machine-{escaped}.scope/libvirt/emulator"])
    expected = name.encode(errors="replace").decode()
    assert domain is not None
    assert domain == (expected, "qemu")
