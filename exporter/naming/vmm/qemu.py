"""QEMU."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.model.vm import Vm
from exporter.naming.vmm.definition import CommandLineIdentity, Vmm

#: Options without an argument, of QEMU 2.0 to 10 (qemu-options.hx, DEF(..., 0, ...)). All others take the
#: next argument whatever it looks like (system/vl.c, lookup_opt()).
_FLAGS = frozenset((
    "S", "alt-grab", "async-teardown", "audio-help", "ctrl-grab", "curses", "daemonize", "enable-fips",
    "enable-kvm", "enable-sync-profile", "full-screen", "h", "help", "jitdump", "localtime", "mem-prealloc",
    "no-acpi", "no-fd-bootchk", "no-frame", "no-hpet", "no-kvm", "no-kvm-irqchip", "no-kvm-pit",
    "no-kvm-pit-reinjection", "no-quit", "no-reboot", "no-shutdown", "no-user-config", "nodefaults",
    "nodefconfig", "nographic", "old-param", "only-migratable", "perfmap", "portrait", "preconfig", "s",
    "sdl", "semihosting", "show-cursor", "singlestep", "snapshot", "usb", "version", "win2k-hack",
    "xen-attach", "xen-domid-restrict",
))  # fmt: skip
#: Options that tell a renamed QEMU from other programs: two different ones are enough.
_TYPICAL = frozenset((
    "M", "accel", "blockdev", "boot", "chardev", "cpu", "daemonize", "drive", "enable-kvm", "global",
    "machine", "mon", "monitor", "netdev", "no-reboot", "no-shutdown", "no-user-config", "nodefaults",
    "nographic", "object", "pidfile", "qmp", "rtc", "smbios", "smp", "vga",
))  # fmt: skip


def _read_identity(argv: list[str]) -> CommandLineIdentity:
    """Name and uuid from the arguments of QEMU.

    The name is the guest of -name, else the value of Proxmox VE's -id. The uuid is the value of -uuid, else that of
    -smbios type=1 (Proxmox VE states no other). As in QEMU, the last of several options wins.
    """
    name = proxmox_id = uuid = smbios_uuid = ""
    for option, value in _options(argv):
        if option == "name":
            name = _items(value, implied="guest").get("guest", name)
        elif option == "id":
            proxmox_id = value
        elif option == "uuid":
            uuid = value
        elif option == "smbios":
            items = _items(value)
            if items.get("type") == "1":
                smbios_uuid = items.get("uuid", smbios_uuid)
    return CommandLineIdentity(name or proxmox_id, uuid or smbios_uuid)


def has_typical_options(argv: list[str]) -> bool:
    """Whether argv has two different options that are typical of QEMU."""
    return len({option for option, _ in _options(argv)} & _TYPICAL) >= 2


def _options(argv: list[str]) -> Iterator[tuple[str, str]]:
    """(option without its dashes, value or "") in order; disk images without an option are left out."""
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument.startswith("-") and len(argument) > 1:
            option = argument[2:] if argument.startswith("--") else argument[1:]
            yield option, "" if option in _FLAGS else next(arguments, "")


def _items(value: str, implied: str = "") -> dict[str, str]:
    """`a=b,c=d`, ",," being a comma (util/qemu-option.c); `implied`: the key of a first item without one."""
    # An argument cannot hold a NUL, so it can stand for the escaped comma while the value is split.
    items: dict[str, str] = {}
    for index, item in enumerate(value.replace(",,", "\0").split(",")):
        key, equals, text = item.partition("=")
        if not equals and index == 0 and implied:
            key, text = implied, item
        items[key] = text.replace("\0", ",")
    return items


def _sample_command_line(vm: Vm, machine: str) -> list[str]:
    uuid = ["-uuid", vm.uuid] if vm.uuid else []
    return [f"/usr/bin/qemu-system-{machine}", "-name", "guest=" + vm.name.replace(",", ",,"), *uuid]


QEMU = Vmm(
    label="qemu",
    # kvm: Proxmox VE; kvm-spice: Ubuntu; qemu-kvm: RHEL and its relatives.
    programs=frozenset({"qemu", "qemu-kvm", "kvm", "kvm-spice"}),
    # .qemu-system-x86_64-wrapped: the program behind nixpkgs' wrapper. qemu:web: set by -name process=qemu:web.
    program_prefixes=("qemu-system-", ".qemu-system-", "qemu:"),
    vcpu_comm="CPU {}/KVM",  # accel/kvm/kvm-accel-ops.c
    libvirt_driver="qemu",
    read_identity=_read_identity,
    sample_command_line=_sample_command_line,
    has_typical_options=has_typical_options,
    typical_options=("-nodefaults", "-no-user-config"),
)
