"""These rules hold for each VMM in the registry, and for finding the VMM of a process."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import exporter.naming.vmm
from exporter.model.vm import Vm
from exporter.naming.cgroup import libvirt_domain
from exporter.naming.cmdline import split
from exporter.naming.identity import identify
from exporter.naming.vcpu import vcpu_index
from exporter.naming.vmm import registry
from exporter.naming.vmm.definition import CommandLineIdentity, Vmm
from exporter.recording.command_line import command_line
from tests.unit.naming.processes import UUID, known, make

# These files in exporter/naming/vmm belong to no VMM.
SHARED_FILES = {"definition", "options", "registry"}

each_vmm = pytest.mark.parametrize("vmm", registry.VMMS, ids=lambda vmm: vmm.label)


def states_uuid(vmm: Vmm) -> bool:
    return UUID in " ".join(vmm.sample_command_line(Vm(42, "web", UUID, vmm.label), "aarch64"))


def test_each_file_of_a_vmm_is_in_the_list_and_has_a_test() -> None:
    files = {module.name for module in pkgutil.iter_modules(exporter.naming.vmm.__path__)} - SHARED_FILES
    assert files == {vmm.label.replace("-", "_") for vmm in registry.VMMS}
    tests = {path.stem for path in Path(__file__).parent.glob("test_*.py")} - {"test_registry"}
    assert tests == {f"test_{file}" for file in files}


def test_the_documentation_lists_each_label() -> None:
    text = (Path(__file__).parents[4] / "docs" / "metrics.md").read_text()
    assert ", ".join(f"`{vmm.label}`" for vmm in registry.VMMS) + ", another program's name," in " ".join(text.split())


@each_vmm
@pytest.mark.parametrize("name", ["web", "web-1,x", "42"])
def test_the_sample_command_line_gives_name_uuid_and_vmm(tmp_path: Path, vmm: Vmm, name: str) -> None:
    uuid = UUID if states_uuid(vmm) else ""
    wanted = Vm(42, name, uuid, vmm.label)
    argv = vmm.sample_command_line(wanted, "aarch64")
    assert known(tmp_path, argv) == wanted
    assert command_line(wanted, "aarch64") == argv


@each_vmm
@pytest.mark.parametrize("index", [0, 7, 4095])
def test_the_comm_of_a_vcpu_gives_its_index(tmp_path: Path, vmm: Vmm, index: int) -> None:
    for comm in (form.format(index).encode() for form in vmm.vcpu_comms):
        assert len(comm) <= 15
        for vcpu_id in (None, 0, index + 2):
            assert vcpu_index(comm, vcpu_id, 1, 2, tmp_path) == str(index)


@each_vmm
@pytest.mark.parametrize("wrapper", [".{}-wrapped", ".{}-wrapped__", ".{}-real", "{}.real", "{}.distrib"])
def test_a_wrapped_program_belongs_to_the_vmm_of_its_name(tmp_path: Path, vmm: Vmm, wrapper: str) -> None:
    program, *arguments = vmm.sample_command_line(Vm(42, "web", UUID, vmm.label), "aarch64")
    hidden = wrapper.format(program.rpartition("/")[2])
    wanted = Vm(42, "web", UUID if states_uuid(vmm) else "", vmm.label)
    # The wrapper may set argv[0] to any name. The exporter often cannot read the link to the executable.
    for pid, argv_0, files in (
        (1, f"/nix/store/x/bin/{hidden}", {}),
        (2, "x", {"exe": f"/nix/store/x/bin/{hidden}"}),
        (3, "x", {"comm": hidden[:15] + "\n"}),
    ):
        make(tmp_path, pid, [argv_0, *arguments], **files)
        assert identify(pid, tmp_path).vm == replace(wanted, pid=pid)


def test_the_label_of_an_unknown_wrapped_program_is_the_name_of_its_wrapper(tmp_path: Path) -> None:
    argv = ["/nix/store/x/bin/.our-vm-wrapped", "-name", "web", "-machine", "virt", "-smp", "2"]
    assert known(tmp_path, argv) == Vm(42, "web", "", "our-vm")


@each_vmm
def test_each_program_name_belongs_to_one_vmm(vmm: Vmm) -> None:
    for program in (*vmm.programs, *(prefix + "x" for prefix in vmm.program_prefixes)):
        assert registry.recognise([program], [program]) == (vmm, vmm)
        assert [other.label for other in registry.VMMS if other.is_program(program)] == [vmm.label]
    for program, subcommand in vmm.subcommands:
        assert registry.recognise([program], [program, subcommand]) == (vmm, vmm)
        assert registry.recognise([program], [program]) != (vmm, vmm)


@each_vmm
def test_the_domain_of_a_libvirt_driver_gives_the_label(vmm: Vmm) -> None:
    if vmm.libvirt_driver:
        assert libvirt_domain([f"/machine/web.libvirt-{vmm.libvirt_driver}"]) == ("web", vmm.label)


@each_vmm
def test_typical_options_are_recognised_after_the_sample_command_line(vmm: Vmm) -> None:
    argv = vmm.sample_command_line(Vm(42, "web", UUID, vmm.label), "aarch64")
    assert not vmm.has_typical_options(argv)
    assert vmm.has_typical_options([*argv, *vmm.typical_options]) == bool(vmm.typical_options)


def test_a_vmm_is_found_by_its_label() -> None:
    assert [registry.by_label(vmm.label) for vmm in registry.VMMS] == list(registry.VMMS)
    assert registry.by_label("our-vm") is None
    assert registry.by_label("") is None


@pytest.mark.parametrize(("program", "label"), [("/opt/our-vm", "our-vm"), ("[vm]", "_vm_"), ("lkvm-gui", "lkvm-gui")])
def test_an_unknown_program_with_the_options_of_qemu_has_a_label_of_its_own(
    tmp_path: Path, program: str, label: str
) -> None:
    argv = [program, "-name", "guest=web", "-uuid", UUID, "-machine", "virt", "-smp", "2"]
    assert known(tmp_path, argv) == Vm(42, "web", UUID, label)


def test_an_unknown_program_in_a_cgroup_of_libvirt_has_the_label_of_the_driver(tmp_path: Path) -> None:
    argv = ["/opt/our-vm", "-name", "guest=web", "-machine", "virt", "-smp", "2"]
    cgroup = r"0::/machine.slice/machine-qemu\x2d3\x2dother.scope" + "\n"
    assert known(tmp_path, argv, cgroup=cgroup) == Vm(42, "web", "", "qemu")


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/firecracker-something-else", "--id", "web"], "web"),
        (["firecracker-containerd"], "42"),
        (["firecracker-vsock"], "42"),
        (["cloud-hypervisor-fork", "--api-socket", "/run/web.sock"], "web"),
        (["crosvm-guest-tool", "run", "--name", "web"], "web"),
        (["crosvm2", "run", "--name", "web"], "web"),
        (["crosvms", "run", "--name", "web"], "42"),
        (["kvmtool-fork", "run", "--name", "web"], "web"),
        (["qemu-img", "convert", "a", "b"], "42"),
        (["qemu-ga", "-m", "virtio-serial"], "42"),
        (["qemu-x86_64", "/bin/true"], "42"),
        (["qemu-fork", "-name", "web"], "web"),
    ],
)
def test_a_program_name_that_begins_with_the_name_of_a_vmm_is_another_program(
    tmp_path: Path, argv: list[str], name: str
) -> None:
    program = argv[0].rpartition("/")[2]
    assert known(tmp_path, argv, exe=f"/usr/bin/{program}", comm=program[:15] + "\n") == Vm(42, name, "", program)


@pytest.mark.parametrize(
    ("vm", "argv"),
    [
        (
            Vm(41, "web,1", UUID, "our-vm"),
            ["our-vm", "-name", "guest=web,,1", "-uuid", UUID, "-nodefaults", "-no-user-config"],
        ),
        (Vm(41, "web", "", "qemu-fork"), ["qemu-fork", "-name", "guest=web"]),
        (Vm(41, "web", "", "firecracker-fork"), ["firecracker-fork", "--id", "web"]),
        (Vm(41, "web", "", "unknown"), ["unknown", "-name", "guest=web", "-nodefaults", "-no-user-config"]),
    ],
)
def test_a_stand_in_for_an_unknown_program_keeps_label_name_and_uuid(tmp_path: Path, vm: Vm, argv: list[str]) -> None:
    assert command_line(vm, "aarch64") == argv
    assert known(tmp_path, argv) == Vm(42, vm.name, vm.uuid, vm.vmm)


@pytest.mark.parametrize("label", ["our-vm", "unknown", ""])
def test_a_stand_in_for_an_unknown_program_without_a_name_is_named_by_its_pid(tmp_path: Path, label: str) -> None:
    argv = command_line(Vm(41, "41", "", label), "aarch64")
    assert argv == [label or "unknown"]
    assert known(tmp_path, argv) == Vm(42, "42", "", label or "unknown")


WORDS = st.sampled_from(
    [
        *("-name", "--name", "-uuid", "-id", "-smbios", "type=1,uuid=x", "guest=a,,b", "-", "--", "-p", "--id=", ""),
        *("--api-socket", "path=/a/b.sock", "--platform", "uuid=", "-M", "-smp", "run", "qemu", "crosvm", "kvm"),
    ]
)


@given(st.lists(WORDS | st.text(max_size=8), max_size=8), st.binary(max_size=60))
def test_any_command_line_is_read_without_an_error(argv: list[str], raw: bytes) -> None:
    for arguments in (argv, split(raw)):
        for vmm in registry.VMMS:
            assert isinstance(vmm.read_identity(arguments), CommandLineIdentity)
            assert vmm.has_typical_options(arguments) in (True, False)
        assert set(registry.recognise(arguments[:2], arguments)) <= {*registry.VMMS, None}
