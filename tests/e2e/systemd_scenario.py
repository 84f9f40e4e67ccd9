"""Runs inside a machine with systemd: test the unit, restarts without loss, reloads, the watchdog.

An exact guest works all the time, round after round. At the end the page must equal the guest's own counts.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import figures
import installed
import page as pages
import privileges
import versions
import workload
from beside import Perf
from checks import Checks
from compare import Comparison
from oracle import Oracle
from page import Page
from vms import ExactGuest, identity

SOCKET = "unix:/run/kvm-exit-exporter/web.sock"
WATCHDOG_SECONDS = 10
RESTARTS = 3


class Work:
    """Runs round after round of a guest in the background until stop()."""

    def __init__(self, guest: ExactGuest) -> None:
        self.rounds = 0
        self._guest = guest
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._guest.again()
            self._guest.wait_parked()
            self.rounds += 1

    def wait_past(self, rounds: int) -> None:
        """Wait until the guest has finished more than this number of rounds."""
        while self.rounds <= rounds:
            time.sleep(0.1)

    def stop(self) -> None:
        """End the work; return when the vCPUs are parked."""
        self._stop.set()
        self._thread.join()


class Scenario:
    """The steps, in order."""

    def __init__(self, *, short: bool) -> None:
        self._short = short
        self.checks = Checks()
        self.oracle = Oracle()
        self.perf = Perf()
        self.comparison = Comparison(self.checks, self.oracle)
        self._began, self._passed = time.monotonic(), 0

    def run(self) -> None:
        """Run all steps."""
        installed.install("collect_interval: 5s\n")
        installed.drop_in(f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n")
        installed.systemctl("start", installed.NAME)  # returns when the program is attached: Type=notify
        self._started()
        self._done("installed and started")

        guest = ExactGuest(identity("exact-1"), *workload.WORKER)
        guest.wait_parked()
        gone = ExactGuest(identity("gone"), {workload.SIMPLEST: 211})
        gone.wait_parked()
        page = Page.settled()
        for one in (guest, gone):
            self.comparison.parked("before", one, page)
        gone.end()
        self._done("two VMs, one of which ends")

        restarts = 1 if self._short else RESTARTS
        self._while_it_works(guest, "restarted", [self._restart] * restarts)
        self.comparison.ended(gone, Page.settled())
        self._while_it_works(guest, "killed", [self._kill] * restarts)
        self.comparison.ended(gone, Page.settled())
        if not self._short:
            self._while_it_works(guest, "reloaded", [self._reload, self._bad_reload, self._reload])
            self._while_it_works(guest, "hung", [self._hang])
        page = Page.settled()
        dropped = page.select("kvm_exit_exporter_dropped_exits_total")
        self.checks.equal("dropped exits", [labels for labels, value in dropped if value], [])
        self.comparison.exporter_ends(page)
        guest.end()
        self.perf.compare(self.checks, self.oracle)

        self._stopped()
        if not self._short:
            self._other_limits()
            self._socket()
        errors = [line for line in installed.log().splitlines() if "level=error" in line]
        self.checks.equal("errors in the log (one for the bad file)", len(errors), 0 if self._short else 1)
        print(f"the exporter's log:\n{installed.log()}", flush=True)

    def _started(self) -> None:
        equal = self.checks.equal
        equal("ActiveState", installed.show("ActiveState"), "active")
        equal("StatusText", installed.show("StatusText"), f"counting; serving on {pages.ADDRESS}, {SOCKET}")
        equal("kvm_exit_exporter_up", Page().select("kvm_exit_exporter_up"), [({}, 1.0)])
        self._privileges()
        equal("programs in the kernel", installed.loaded_programs(), 1)
        print(privileges.shown(installed.pid()), flush=True)

    def _privileges(self) -> None:
        privileges.compare(self.checks, installed.pid())
        self.checks.equal("Seccomp of the service", privileges.status(Path(f"/proc/{installed.pid()}"))["Seccomp"], "2")

    def _while_it_works(self, guest: ExactGuest, what: str, steps: Sequence[Callable[[], None]]) -> None:
        work = Work(guest)
        for step in steps:
            before = work.rounds
            step()
            work.wait_past(before)
        work.stop()
        self.comparison.parked(what, guest, Page.settled())
        self._privileges()
        self._done(f"{what} while a guest works ({work.rounds} rounds)")

    def _restart(self) -> None:
        before = installed.pid()
        installed.systemctl("restart", installed.NAME)
        installed.wait_for_another(before)

    def _kill(self) -> None:
        before = installed.pid()
        os.kill(before, signal.SIGKILL)
        installed.wait_for_another(before)

    def _hang(self) -> None:
        before, began = installed.pid(), time.monotonic()
        os.kill(before, signal.SIGSTOP)
        installed.wait_for_another(before)
        self.checks.true("systemd logs the watchdog timeout", "Watchdog timeout" in installed.log())
        self.checks.between("seconds until the restart", WATCHDOG_SECONDS / 2, time.monotonic() - began, 90)

    def _reload(self) -> None:
        before = installed.pid()
        installed.configure("collect_interval: 3s\nlinger: 10m\n")
        installed.systemctl("reload", installed.NAME)
        self._wait_for_reload(1.0)
        self.checks.equal("main process after a reload", installed.pid(), before)

    def _bad_reload(self) -> None:
        installed.configure("linger: for ever\n")
        installed.systemctl("reload", installed.NAME)
        self._wait_for_reload(0.0)

    def _wait_for_reload(self, successful: float) -> None:
        deadline = time.monotonic() + 30
        name = "kvm_exit_exporter_config_last_reload_successful"
        while time.monotonic() < deadline:
            if Page().select(name) == [({}, successful)] and installed.show("ActiveState") == "active":
                break
            time.sleep(0.2)
        self.checks.equal(name, Page().select(name), [({}, successful)])

    def _stopped(self) -> None:
        installed.systemctl("stop", installed.NAME)
        self.checks.equal("programs left in the kernel after stop", installed.loaded_programs(), 0)
        self.checks.equal("Result of stop", installed.show("Result"), "success")
        self.checks.equal("NFileDescriptorStore after stop", installed.show("NFileDescriptorStore"), "0")
        self._done("stopped")

    def _other_limits(self) -> None:
        """Check that counters start at 0 after a stop, and after a restart with other limits, which is logged."""
        installed.systemctl("start", installed.NAME)
        self.checks.equal("series from before the stop", Page.settled().select("kvm_exits_total"), [])
        installed.configure("limits: {vcpus: 23, cells: 29}\n")
        before = installed.pid()
        installed.systemctl("restart", installed.NAME)
        installed.wait_for_another(before)
        self.checks.equal("slots", Page().select("kvm_exit_exporter_vcpu_slots"), [({}, 23.0)])
        self.checks.equal("programs in the kernel", installed.loaded_programs(), 1)
        self.checks.true("the log names the changed limits", "changed: limits.vcpus, limits.cells" in installed.log())
        guest = ExactGuest(identity("other"), {workload.SIMPLEST: 311})
        guest.wait_parked()
        self.comparison.parked("with other limits", guest, Page.settled())
        guest.end()
        self._done("other limits")

    def _socket(self) -> None:
        """Check that the socket unit listens and that the first scrape starts the service."""
        installed.systemctl("stop", installed.NAME)
        folder = Path(f"/etc/systemd/system/{installed.NAME}.socket.d")
        folder.mkdir()
        (folder / "e2e.conf").write_text(f"[Socket]\nListenStream=\nListenStream={pages.ADDRESS}\n")
        installed.systemctl("daemon-reload")
        installed.systemctl("start", f"{installed.NAME}.socket")
        self.checks.equal("ActiveState before a scrape", installed.show("ActiveState"), "inactive")
        first = Page()  # answered before the program is attached
        self.checks.equal("the socket's first answer", len(first.select("kvm_exit_exporter_up")), 1)
        deadline = time.monotonic() + installed.START_SECONDS
        while Page().select("kvm_exit_exporter_up") != [({}, 1.0)] and time.monotonic() < deadline:
            time.sleep(0.2)
        before = installed.pid()
        self._restart()
        self.checks.true("another process answers", installed.pid() != before)
        self.checks.equal("kvm_exit_exporter_up again", Page().select("kvm_exit_exporter_up"), [({}, 1.0)])
        for name in (f"{installed.NAME}.socket", installed.NAME):
            installed.systemctl("stop", name)
        self._done("activated by its socket")

    def _done(self, step: str) -> None:
        now, passed = time.monotonic(), self.checks.passed
        print(f"{step}: {passed - self._passed} checks held, {now - self._began:.1f} s", flush=True)
        self._began, self._passed = now, passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="only restart and kill the service, once each")
    arguments = parser.parse_args()
    print(versions.line(), flush=True)
    scenario = Scenario(short=arguments.short)
    try:
        scenario.run()
    except Exception:
        scenario.checks.true("the scenario finishes", False, traceback.format_exc())
        subprocess.run(["journalctl", "--no-pager", "-n", "60", "-u", "kvm-exit-exporter*"], check=False)
    print(figures.table(scenario.comparison.figures, scenario.comparison.skipped_by_all))
    print(scenario.checks.summary())
    return 1 if scenario.checks.failures else 0


if __name__ == "__main__":
    sys.exit(main())
