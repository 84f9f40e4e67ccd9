"""QEMU."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.model.vm import Vm
from exporter.naming.vmm.definition import CommandLineIdentity, Vmm
from exporter.naming.vmm.options import option

#: Options of QEMU 2.0 to 10 that take no argument (qemu-options.hx, DEF(..., 0, ...)). Every other option takes the
#: next argument, even if that looks like an option (system/vl.c, lookup_opt()).
_FLAGS = frozenset((
    "S", "alt-grab", "async-teardown", "audio-help", "ctrl-grab", "curses", "daemonize", "enable-fips",
    "enable-kvm", "enable-sync-profile", "full-screen", "h", "help", "jitdump", "localtime", "mem-prealloc",
    "no-acpi", "no-fd-bootchk", "no-frame", "no-hpet", "no-kvm", "no-kvm-irqchip", "no-kvm-pit",
    "no-kvm-pit-reinjection", "no-quit", "no-reboot", "no-shutdown", "no-user-config", "nodefaults",
    "nodefconfig", "nographic", "old-param", "only-migratable", "perfmap", "portrait", "preconfig", "s",
    "sdl", "semihosting", "show-cursor", "singlestep", "snapshot", "usb", "version", "win2k-hack",
    "xen-attach", "xen-domid-restrict",
))  # fmt: skip
#: Options that distinguish a renamed QEMU from other programs. Two different ones are enough.
_TYPICAL = frozenset((
    "M", "accel", "blockdev", "boot", "chardev", "cpu", "daemonize", "drive", "enable-kvm", "global",
    "machine", "mon", "monitor", "netdev", "no-reboot", "no-shutdown", "no-user-config", "nodefaults",
    "nographic", "object", "pidfile", "qmp", "rtc", "smbios", "smp", "vga",
))  # fmt: skip


def _read_identity(argv: list[str]) -> CommandLineIdentity:
    """Return name and uuid from the arguments of QEMU.

    The name is the guest of -name. Without it, the name is the value of Proxmox VE's -id, or the virtual device of the
    Android emulator. The uuid is the value of -uuid. Without it, the uuid is that of -smbios type=1, the only one that
    Proxmox VE sets. If an option is repeated, QEMU uses the last one, and so does this function.
    """
    name = proxmox_id = uuid = smbios_uuid = ""
    for key, value in _options(argv):
        if key == "name":
            name = _items(value, implied="guest").get("guest", name)
        elif key == "id":
            proxmox_id = value
        elif key == "uuid":
            uuid = value
        elif key == "smbios":
            items = _items(value)
            if items.get("type") == "1":
                smbios_uuid = items.get("uuid", smbios_uuid)
    return CommandLineIdentity(name or proxmox_id or _android_device(argv), uuid or smbios_uuid)


def _android_device(argv: list[str]) -> str:
    """Return the name of the Android emulator's virtual device, `-avd NAME` or a first argument `@NAME`; else "".

    The emulator has many options of its own, so _options() cannot tell which of them take an argument.
    """
    if len(argv) > 1 and argv[1].startswith("@"):
        return argv[1][1:]
    return option(argv, "-avd")


def has_typical_options(argv: list[str]) -> bool:
    """Return whether argv has two different options that are typical of QEMU."""
    return len({key for key, _ in _options(argv)} & _TYPICAL) >= 2


def _options(argv: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (option without its dashes, value or "") in order. Disk images without an option are left out."""
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument.startswith("-") and len(argument) > 1:
            key = argument[2:] if argument.startswith("--") else argument[1:]
            yield key, "" if key in _FLAGS else next(arguments, "")


def _items(value: str, implied: str = "") -> dict[str, str]:
    """Parse `a=b,c=d`; ",," is a comma in a value (util/qemu-option.c).

    `implied` is the key of a first item without key.
    """
    # An argument cannot contain a NUL. So a NUL replaces the escaped comma while the value is split.
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
    # kvm is the name on Proxmox VE, kvm-spice on Ubuntu, qemu-kvm on RHEL and its derivatives.
    programs=frozenset({"qemu", "qemu-kvm", "kvm", "kvm-spice"}),
    # .qemu-system- begins the comm of .qemu-system-x86_64-wrapped, of which the kernel cuts the end (cmdline.py). The
    # option -name process=qemu:web sets the name qemu:web.
    program_prefixes=("qemu-system-", ".qemu-system-", "qemu:"),
    vcpu_comms=("CPU {}/KVM",),  # accel/kvm/kvm-accel-ops.c
    libvirt_driver="qemu",
    read_identity=_read_identity,
    sample_command_line=_sample_command_line,
    has_typical_options=has_typical_options,
    typical_options=("-nodefaults", "-no-user-config"),
)
