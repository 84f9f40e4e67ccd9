"""QEMU's command line: name and uuid of the VM, and whether this is QEMU at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

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


class CommandLineIdentity(NamedTuple):
    """What a command line says of its VM; "" where it says nothing."""

    name: str = ""
    uuid: str = ""


def parse(argv: list[str]) -> CommandLineIdentity:
    """Name and uuid from the arguments of QEMU, argv[0] being the program.

    The name is -name's guest, else Proxmox VE's -id; the uuid -uuid's, else that of -smbios type=1 (Proxmox
    VE gives no other). As in QEMU the last of several wins.
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


def looks_like_qemu(argv: list[str]) -> bool:
    """Whether these are QEMU's arguments, going by the options alone."""
    return len({option for option, _ in _options(argv)} & _TYPICAL) >= 2


def _options(argv: list[str]) -> Iterator[tuple[str, str]]:
    """(option without its dashes, value or "") in order; disk images without an option are passed over."""
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
