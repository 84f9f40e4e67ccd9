"""The exporter as a systemd service: install it as a package does, change its configuration, read its state."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import page

NAME = "kvm-exit-exporter"
CHECKOUT = Path(__file__).resolve().parent.parent.parent
CONFIG = Path("/etc/kvm-exit-exporter/config.yaml")
DROP_INS = Path(f"/etc/systemd/system/{NAME}.service.d")
START_SECONDS = 120  # most of this time is the compilation under emulation


def systemctl(*arguments: str) -> str:
    """Run systemctl; return its output. Raises CalledProcessError."""
    done = subprocess.run(["systemctl", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def install(configuration: str) -> None:
    """Copy every file to its place in the Debian package, and create the user. Raises CalledProcessError."""
    for kind in ("passwd", "group"):  # remove the image's user: sysusers.d must create it
        file = Path("/etc") / kind
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if not line.startswith(NAME)))
    shutil.copytree(CHECKOUT / "exporter", "/usr/share/kvm-exit-exporter/exporter")
    for source, target in (
        (f"deploy/bin/{NAME}", f"/usr/bin/{NAME}"),
        (f"systemd/{NAME}.service", f"/usr/lib/systemd/system/{NAME}.service"),
        (f"systemd/{NAME}.socket", f"/usr/lib/systemd/system/{NAME}.socket"),
        (f"systemd/{NAME}.sysusers", f"/usr/lib/sysusers.d/{NAME}.conf"),
        (f"systemd/{NAME}.tmpfiles", f"/usr/lib/tmpfiles.d/{NAME}.conf"),
        (f"systemd/{NAME}.default", f"/etc/default/{NAME}"),
    ):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / source, target)
    configure(configuration)
    subprocess.run(["systemd-sysusers", f"{NAME}.conf"], check=True)
    subprocess.run(["systemd-tmpfiles", "--create", f"{NAME}.conf"], check=True)
    systemctl("daemon-reload")


def configure(configuration: str) -> None:
    """Write the configuration file."""
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(f'web: {{listen_address: ["{page.ADDRESS}"]}}\n{configuration}')


def drop_in(text: str) -> None:
    """Change the unit with a drop-in file, as an operator does."""
    DROP_INS.mkdir(parents=True, exist_ok=True)
    (DROP_INS / "e2e.conf").write_text(text)
    systemctl("daemon-reload")


def show(name: str) -> str:
    """Return a property of the unit."""
    return systemctl("show", "--value", f"--property={name}", f"{NAME}.service")


def pid() -> int:
    """Return the pid of the service's main process."""
    return int(show("MainPID"))


def log() -> str:
    """Return the service's log since the boot."""
    command = ["journalctl", "--no-pager", "--output=cat", f"--unit={NAME}.service"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def wait_for_another(earlier: int) -> None:
    """Wait until systemd has started the service again and it is active. Raises RuntimeError."""
    deadline = time.monotonic() + START_SECONDS
    while pid() in (0, earlier) or show("ActiveState") != "active":
        if time.monotonic() > deadline:
            raise RuntimeError(f"{NAME} did not start again; its log:\n{log()}")
        time.sleep(0.2)


def loaded_programs() -> int:
    """Return the number of loaded BPF programs named kvm_exit."""
    shown = subprocess.run(["bpftool", "prog", "show"], stdout=subprocess.PIPE, text=True, check=True)
    return len(re.findall(r"\bname kvm_exit\b", shown.stdout))
