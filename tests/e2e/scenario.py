"""Runs inside the machine: run guests with known exits, and compare their counts with the exporter's.

All steps except the last use one start of the exporter, because the compilation of its program is slow under emulation.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import failing
import figures
import limits
import privileges
import recorded
import top
import versions
import workload
from beside import Perf
from checks import Checks
from compare import Comparison
from oracle import INTEL, Oracle
from page import Page
from service import Service
from vms import ExactGuest, LinuxGuest, identity

# Linux keeps 15 characters of a program's name. Only newer versions of bpftool take the rest from BTF.
PROGRAMS = {"kvm_exit", "kvm_entry", "kvm_userspace_e"}


class Scenario:
    """The steps, in order. Each step continues with the guests that the previous step left running."""

    def __init__(self, with_exporter: bool, with_linux: bool) -> None:
        self.checks = Checks()
        self.oracle = Oracle()
        self.perf = Perf()
        self.comparison = Comparison(self.checks, self.oracle)
        self._with_exporter, self._with_linux = with_exporter, with_linux
        self._step_began, self._passed = time.monotonic(), 0

    def run(self) -> None:
        """Run all steps."""
        early = ExactGuest(identity("early"), *workload.EARLY)
        early.wait_parked()
        early_before = early.vcpus
        self.comparison.ignore_so_far(early)
        own_top = top.Top("--source=own") if self._with_exporter else None  # both compile at once
        service = Service() if self._with_exporter else None
        self._done("exporter started")
        if own_top:
            top.compare(self.comparison, own_top)
            self._done("top with own programs, and top with the exporter")
            recorded.compare(self.comparison)
            self._done("a recording, and its replay")

        one = ExactGuest(identity("exact-1"), workload.SLEEPER, workload.KICKED)
        two = ExactGuest(identity("exact,2"), *workload.THREE)
        for guest in (one, two):
            guest.wait_parked()
        page = self._page()
        for guest in (one, two):
            self.comparison.parked("once", guest, page)
        self._done("two VMs at once")

        for guest in (one, two, early):
            guest.again()
        for guest in (one, two, early):
            guest.wait_parked()
        early.vcpus = [now.since(then) for now, then in zip(early.vcpus, early_before)]
        page = self._page()
        for guest in (one, two):
            self.comparison.parked("twice", guest, page)
        self.comparison.parked("since the exporter", early, page)
        self._done("the same guests again, and a VM older than the exporter")

        one.end()
        self._ended(one)
        self.comparison.parked("", two, self._page())
        self._done("one of them ended")

        plain = self._plain()
        self._done("a vCPU that spins, and threads without names")

        if INTEL:
            self._unhealthy()
            self._done("triple faults, and VM entries that fail")

        short = self._short_lived()
        two.end()
        early.end()
        self._ended(one, two, early, plain)
        if service:
            self.comparison.counted(short, Page.settled())
        self._done("all ended, and VMs that were never scraped while they ran")

        if self._with_linux:
            self._linux()
            self._done("Linux guests")
        self.perf.compare(self.checks, self.oracle)
        if service:
            self._whole_page(Page.settled())
            self._end_exporter(service)
            self._done("the exporter itself")
            limits.tight(self.comparison, self.oracle)
            self._done("more vCPUs and reasons than the pools hold")

    def _page(self) -> Page | None:
        return Page.settled() if self._with_exporter else None

    def _ended(self, *guests: ExactGuest | LinuxGuest) -> None:
        page = self._page()
        if page:
            for guest in guests:
                self.comparison.ended(guest, page)

    def _plain(self) -> ExactGuest:
        vcpus = {workload.SIMPLEST: 17, "hold": 1}, {workload.SIMPLEST: 19}
        guest = ExactGuest(replace(identity("plain"), debug_threads=False), *vcpus)
        tid = guest.wait_holding()
        earlier = None
        for _ in range(3 if self._with_exporter else 0):
            time.sleep(0.5)
            earlier = self.comparison.spinning(tid, Page.settled(), earlier)
        guest.let_go()
        guest.wait_parked()
        self.comparison.parked("after spinning", guest, self._page())
        guest.end()
        return guest

    def _unhealthy(self) -> None:
        guest = ExactGuest(identity("unhealthy"), *workload.UNHEALTHY)
        guest.wait_parked()
        self.comparison.parked("with failures", guest, self._page())
        guest.end()
        self._ended(guest)
        failing.compare(self.comparison, self._with_exporter)

    def _short_lived(self) -> list[ExactGuest]:
        guests = []
        for number in workload.SHORT_LIVED:
            guest = ExactGuest(identity(f"short-{number}"), {workload.SIMPLEST: number})
            guest.wait_parked()
            self.comparison.parked("", guest, None)
            guest.end()
            guests.append(guest)
        return guests

    def _linux(self) -> None:
        """Run real guests. Their exits are not known, so they are compared only with the oracle."""
        guests = [LinuxGuest(identity(name), vcpus) for name, vcpus in workload.LINUX.items()]
        self._let_work(guests, workload.LINUX_ROUNDS)
        for when in ("stopped once", "stopped twice"):
            for guest in guests:
                guest.stop()
            page = self._page()
            for guest in guests:
                self.comparison.parked(when, guest, page)
            for guest in guests:
                guest.go_on()
            self._let_work(guests, workload.LINUX_MORE_ROUNDS)
        for guest in guests:
            guest.end()
        self._ended(*guests)

    def _let_work(self, guests: list[LinuxGuest], rounds: int) -> None:
        """Let Linux guests run for this number of rounds, and scrape all the time."""
        deadline = time.monotonic() + workload.LINUX_SECONDS
        earlier = None
        while min(guest.rounds() for guest in guests) < rounds:
            if time.monotonic() > deadline:
                if workload.LINUX_MUST_WORK:
                    raise RuntimeError(f"fewer than {rounds} rounds in {workload.LINUX_SECONDS} s")
                break
            if self._with_exporter:
                earlier = self.comparison.running(Page(), earlier)
            time.sleep(1)
        print("rounds of work: " + ", ".join(f"{guest.identity.name} {guest.rounds()}" for guest in guests))

    def _whole_page(self, page: Page) -> None:
        equal = self.checks.equal
        dropped = page.select("kvm_exit_exporter_dropped_exits_total")
        self.checks.true("causes of dropped exits are served", len(dropped) > 0)
        equal("dropped exits", [(labels, value) for labels, value in dropped if value], [])
        self.comparison.exporter_ends(page)
        unmatched = page.by("kind", "kvm_exit_exporter_unmatched_events_total")
        equal("exits without an entry before them", unmatched.get("exit"), 0)
        equal("entries without an exit after them", unmatched.get("entry"), workload.FAILED_ENTRIES)
        unknown = [line for line in page.text.splitlines() if "UNKNOWN_" in line and not line.startswith("#")]
        equal("reasons without a name", unknown, [])
        equal("kvm_exit_exporter_up", page.select("kvm_exit_exporter_up"), [({}, 1.0)])
        equal("kvm_exit_exporter_tracked_vcpus", page.select("kvm_exit_exporter_tracked_vcpus"), [({}, 0.0)])

    def _end_exporter(self, service: Service) -> None:
        equal = self.checks.equal
        print(privileges.shown(service.process.pid), flush=True)
        privileges.compare(self.checks, service.process.pid)
        privileges.permitted(self.checks)
        equal("programs in the kernel", _loaded_programs() & PROGRAMS, PROGRAMS)
        equal("exit status after SIGTERM", service.stop(), 0)
        equal("programs left in the kernel", _loaded_programs() & PROGRAMS, set())
        equal("errors in its log", service.errors(), [])
        self.checks.true("kvm_exit is read from its raw tracepoint", 'kvm_exit="raw tracepoint"' in service.log())
        print(f"the exporter's log:\n{service.log()}", flush=True)

    def _done(self, step: str) -> None:
        now, passed = time.monotonic(), self.checks.passed
        print(f"{step}: {passed - self._passed} checks held, {now - self._step_began:.1f} s", flush=True)
        self._step_began, self._passed = now, passed


def _loaded_programs() -> set[str]:
    shown = subprocess.run(["bpftool", "--json", "prog", "show"], stdout=subprocess.PIPE, check=True)
    return {program.get("name", "")[:15] for program in json.loads(shown.stdout)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-exporter", action="store_true", help="compare the guests only with the oracle")
    parser.add_argument("--no-linux", action="store_true", help="leave the Linux guests out")
    arguments = parser.parse_args()
    print(versions.line(), flush=True)
    scenario = Scenario(not arguments.no_exporter, not arguments.no_linux)
    try:
        scenario.run()
    except Exception:
        scenario.checks.true("the scenario finishes", False, traceback.format_exc())
    print(figures.table(scenario.comparison.figures, scenario.comparison.skipped_by_all))
    print(f"{platform.machine()}, Linux {platform.release()}: {scenario.checks.summary()}")
    return 1 if scenario.checks.failures else 0


if __name__ == "__main__":
    sys.exit(main())
