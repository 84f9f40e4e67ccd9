"""Runs inside a machine with systemd: install, upgrade, remove and purge the Debian package while a guest works.

/job/old.deb and /job/new.deb are the package in two versions. `sys.argv[1:]` has the two version numbers.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import installed
import versions
import workload
from checks import Checks
from compare import Comparison
from oracle import Oracle
from page import Page
from systemd_scenario import Work
from vms import ExactGuest, identity

CONFIG = Path("/etc/kvm-exit-exporter/config.yaml")
PLACES = ("/etc", "/lib", "/run", "/usr", "/var")
# Files that the journal, systemd or dpkg keeps about the package.
NOT_OURS = ("/run/systemd/", "/var/lib/dpkg/", "/var/log/", "/usr/share/lintian/")


def dpkg(*arguments: str) -> None:
    """Run dpkg without questions. Raises RuntimeError if it fails."""
    command = ["dpkg", "--force-confold", *arguments]
    said = subprocess.run(
        command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    print(said.stdout, flush=True)
    if said.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {said.returncode}")


def traces() -> set[str]:
    """Return every path that contains the package's name."""
    return {
        path
        for place in PLACES
        for folder, names, files in os.walk(place)
        for path in (os.path.join(folder, name) for name in (*names, *files))
        if installed.NAME in path and not path.startswith(NOT_OURS)
    }


def run(checks: Checks, old: str, new: str) -> None:
    """Install, upgrade, remove and purge."""
    comparison = Comparison(checks, Oracle())
    checks.equal("traces before", traces(), set())

    dpkg("--install", "/job/old.deb")
    checks.equal("ActiveState", installed.show("ActiveState"), "active")
    checks.equal("UnitFileState", installed.show("UnitFileState"), "enabled")
    checks.equal("ActiveState of the socket", _state("socket"), "inactive")
    checks.equal("version", _version(), old)
    guest = ExactGuest(identity("exact-1"), workload.SLEEPER, workload.KICKED)
    guest.wait_parked()
    comparison.parked("installed", guest, Page.settled())

    before = installed.pid()
    work = Work(guest)
    work.wait_past(0)
    changed = CONFIG.read_text() + "\n# kept\n"
    CONFIG.write_text(changed)
    dpkg("--install", "/job/new.deb")
    work.wait_past(work.rounds)
    work.stop()
    checks.true("another process answers", installed.pid() != before)
    checks.equal("version", _version(), new)
    comparison.parked("upgraded", guest, Page.settled())  # every exit since the first installation
    checks.equal("programs in the kernel", installed.loaded_programs(), 1)
    checks.equal("config.yaml", CONFIG.read_text(), changed)
    guest.end()

    # systemd listens while the service is stopped, and the first scrape starts the service.
    installed.systemctl("stop", f"{installed.NAME}.service")
    installed.systemctl("start", f"{installed.NAME}.socket")
    checks.equal("version by the socket", _version(), new)
    installed.systemctl("start", f"{installed.NAME}.service")  # waits until the program is attached
    checks.equal("ActiveState by the socket", installed.show("ActiveState"), "active")
    dpkg("--remove", installed.NAME)
    checks.equal("ActiveState", installed.show("ActiveState"), "inactive")
    checks.equal("ActiveState of the socket", _state("socket"), "inactive")
    checks.equal("programs in the kernel", installed.loaded_programs(), 0)
    checks.equal("config.yaml", CONFIG.read_text(), changed)

    dpkg("--purge", installed.NAME)
    checks.equal("traces left", traces(), set())
    checks.equal("the user's shell", pwd.getpwnam(installed.NAME).pw_shell, "/usr/sbin/nologin")


def _state(kind: str) -> str:
    command = ["systemctl", "is-active", f"{installed.NAME}.{kind}"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()


def _version() -> str:
    ((labels, _),) = Page().select("kvm_exit_exporter_build_info")
    return labels["version"]


def main() -> int:
    print(versions.line(), flush=True)
    checks = Checks()
    try:
        run(checks, *sys.argv[1:])
    except Exception:
        checks.true("the scenario finishes", False, traceback.format_exc())
        subprocess.run(["journalctl", "--no-pager", "-n", "60", "-u", "kvm-exit-exporter*"], check=False)
    print(checks.summary())
    return 1 if checks.failures else 0


if __name__ == "__main__":
    sys.exit(main())
