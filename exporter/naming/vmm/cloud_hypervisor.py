"""Cloud Hypervisor."""

from __future__ import annotations

from exporter.model.vm import Vm
from exporter.naming.vmm.definition import CommandLineIdentity, Vmm
from exporter.naming.vmm.options import option, socket_name

#: The value of --cmdline is the guest kernel's command line.
_FREE_TEXT = frozenset({"--cmdline"})
_OWN_WORDS = frozenset({"ch", "chv", "clh", "cloud-hypervisor", "cloudhv"})


def _read_identity(argv: list[str]) -> CommandLineIdentity:
    socket = option(argv, "--api-socket", free_text=_FREE_TEXT)
    return CommandLineIdentity(socket_name(socket, words=_OWN_WORDS), _platform_uuid(argv), name_from_path=True)


def _platform_uuid(argv: list[str]) -> str:
    """Return the uuid in --platform num_pci_segments=1,uuid=..."""
    for item in option(argv, "--platform", free_text=_FREE_TEXT).split(","):
        if item.startswith("uuid="):
            return item[len("uuid=") :]
    return ""


def _sample_command_line(vm: Vm, _machine: str) -> list[str]:
    return ["cloud-hypervisor", "--api-socket", f"/run/{vm.name}.sock", "--platform", f"uuid={vm.uuid}"]


CLOUD_HYPERVISOR = Vmm(
    label="cloud-hypervisor",
    # These include the file names of its releases.
    programs=frozenset({"cloud-hypervisor", "cloud-hypervisor-static", "cloud-hypervisor-static-aarch64"}),
    vcpu_comms=("vcpu{}",),  # vmm/src/cpu.rs
    libvirt_driver="ch",
    read_identity=_read_identity,
    sample_command_line=_sample_command_line,
)
