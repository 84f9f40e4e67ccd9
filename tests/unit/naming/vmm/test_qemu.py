"""The program names and options of QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model.vm import Vm
from exporter.naming.identity import identify
from exporter.naming.vmm.qemu import QEMU, has_typical_options
from tests.support.paths import DATA
from tests.unit.naming.processes import UUID, known, make


def test_captured_command_lines_give_name_and_uuid(tmp_path: Path) -> None:
    text = (DATA / "vms.txt").read_text()
    commands = [line.rstrip(" ").split(" ") for line in text.splitlines() if line.startswith("/")]
    for pid, argv in enumerate(commands, 141):
        make(tmp_path, pid, argv)
    assert [identify(pid, tmp_path).vm for pid in (141, 142, 143)] == [
        Vm(141, "db-1", "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0002", "qemu"),
        Vm(142, "web-1", "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0001", "qemu"),
        Vm(143, "idle-1", "6f1c2a70-8d55-4a3a-9a33-0b1f6b0c0003", "qemu"),
    ]


@pytest.mark.parametrize(
    ("arguments", "name", "uuid"),
    [
        ("-name guest=web-1,debug-threads=on -uuid U", "web-1", "U"),
        ("-name debug-threads=on,guest=web-1", "web-1", ""),
        ("--name guest=web --uuid U", "web", "U"),
        ("-name web", "web", ""),
        ("-name web,process=qemu-web", "web", ""),
        ("-name process=qemu-web", "42", ""),
        ("-name a,,b,debug-threads=on", "a,b", ""),
        ("-name guest=a,,,,b,,", "a,,b,", ""),
        ("-name guest=a=b,process=p", "a=b", ""),
        ("-name one -name two", "two", ""),
        ("-name guest=one -name debug-threads=on", "one", ""),
        ("-name", "42", ""),
        ("-name -uuid -uuid U", "-uuid", "U"),
        ("-append -name -uuid U", "42", "U"),
        ("-append -name disk.img", "42", ""),
        ("-enable-kvm -name web", "web", ""),
        ("-S -nodefaults --no-user-config -name web", "web", ""),
        ("disk.img -name web", "web", ""),
        ("-id 101 -name web,debug-threads=on -smbios type=1,uuid=U", "web", "U"),
        ("-id 101 -no-shutdown", "101", ""),
        ("-smbios uuid=U,type=1 -smbios type=0,vendor=v", "42", "U"),
        ("-smbios type=1,serial=s -smbios type=11,uuid=no", "42", ""),
        ("-uuid A -smbios type=1,uuid=B", "42", "A"),
        ("-name guest=default_vm1,debug-threads=on", "default_vm1", ""),
        ("- -- -name x", "42", ""),
        ("-netdelay none -netspeed full -avd Pixel_7 -qt-hide-window -grpc-use-token", "Pixel_7", ""),
        ("-no-window -no-audio -no-boot-anim -avd Pixel_7", "Pixel_7", ""),
        ("@Pixel_7 -no-window -gpu off", "Pixel_7", ""),
        ("-avd", "42", ""),
        ("", "42", ""),
    ],
)
def test_the_options_give_name_and_uuid(tmp_path: Path, arguments: str, name: str, uuid: str) -> None:
    argv = ["/usr/bin/qemu-system-aarch64", *arguments.split()]
    assert known(tmp_path, argv) == Vm(42, name, uuid, "qemu")


@pytest.mark.parametrize("program", ["qemu-system-aarch64", "/usr/libexec/qemu-kvm", "/usr/bin/kvm", "kvm"])
def test_each_program_name_of_qemu_gets_the_label_qemu(tmp_path: Path, program: str) -> None:
    argv = [program, "-name", "guest=web", "-machine", "virt", "-smp", "2"]
    assert known(tmp_path, argv) == Vm(42, "web", "", "qemu")


@pytest.mark.parametrize(
    "files",
    [
        {"exe": "/usr/bin/qemu-system-x86_64"},
        {"exe": "/nix/store/x/bin/.qemu-system-x86_64-wrapped"},
        {"comm": "qemu-system-x86\n"},
        {"comm": ".qemu-system-x8\n"},
        {"exe": "/nix/store/x/bin/.qemu-kvm-wrapped_"},
        {"comm": ".qemu-kvm-wrapp\n"},
        {"exe": "/gnu/store/x/bin/.qemu-system-x86_64-real"},
        {"exe": "/usr/bin/kvm.distrib"},
        {"comm": "qemu-web\n"},
    ],
)
def test_qemu_with_an_unusual_argv_0_is_recognised_by_its_executable_or_comm(
    tmp_path: Path, files: dict[str, str]
) -> None:
    argv = ["microvm@web", "-name", "guest=web", "-M", "microvm", "-smp", "2"]
    assert known(tmp_path, argv, **files) == Vm(42, "web", "", "qemu")


def test_a_vm_of_kubevirt_has_its_namespace_in_its_name(tmp_path: Path) -> None:
    argv = ["/usr/libexec/qemu-kvm", "-name", "guest=shop_web-1,debug-threads=on", "-uuid", UUID]
    pod = "0::/kubepods.slice/kubepods-pod5f.slice/cri-containerd-0a.scope\n"
    assert known(tmp_path, argv, cgroup=pod) == Vm(42, "shop_web-1", UUID, "qemu")


def test_two_different_typical_options_identify_qemu() -> None:
    assert has_typical_options(["x", "-machine", "virt", "--smp", "2"])
    assert not has_typical_options(["x", "-machine", "-smp"])
    assert not has_typical_options(["x", "-smp", "2", "-smp", "4"])
    assert not has_typical_options(["x", "--kernel", "k", "--memory", "m", "--disk", "d", "--net", "n"])
    assert not has_typical_options([])


def test_the_sample_command_line_is_read() -> None:
    vm = Vm(42, "web,1", UUID, "qemu")
    assert QEMU.sample_command_line(vm, "aarch64") == [
        "/usr/bin/qemu-system-aarch64",
        "-name",
        "guest=web,,1",
        "-uuid",
        UUID,
    ]
    assert QEMU.sample_command_line(Vm(42, "web", "", "qemu"), "x86_64") == [
        "/usr/bin/qemu-system-x86_64",
        "-name",
        "guest=web",
    ]
