"""Run `top` with both of its sources while the exporter runs: the tables must equal the guest's own counts."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import page
import workload
from compare import Comparison
from oracle import ARM64, INTEL, RISCV64
from vms import ExactGuest, identity

CPU = "arm64" if ARM64 else "riscv64" if RISCV64 else "intel" if INTEL else "amd64"
GOLDEN = Path(__file__).resolve().parent / "golden" / f"top-{CPU}.txt"
REASONS = {
    "arm64": ("EC_DABT_LOW", "EC_HVC64", "EC_SYS64"),
    "amd64": ("io", "cpuid", "msr"),
    "riscv64": ("EXC_STORE_GUEST_PAGE_FAULT", "EXC_SUPERVISOR_SYSCALL", "CSR"),
    "intel": ("IO_INSTRUCTION", "CPUID", "MSR_READ"),
}[CPU]
SAID = "kvm-exit-exporter top: "
END_SECONDS = 60
# An older guest is parked in its last exit, and the table has no row for that exit.
NOTES = re.compile(rf"({SAID}in no row, because the exit began earlier: .*\n)?")


class Top:
    """A `top` that counts until Ctrl-C. It shows only reasons that the host's interrupts cannot change."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "exporter", "top", *options, f"--reason={','.join(REASONS)}", "--sort=count"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def counting(self) -> str:
        """Wait until `top` counts; return its line about the source."""
        assert self.process.stderr
        said = self.process.stderr.readline()
        self.process.stderr.readline()  # the line about Ctrl-C
        return said

    def table(self) -> str:
        """End `top`; return its output."""
        self.process.send_signal(signal.SIGINT)
        try:
            out, err = self.process.communicate(timeout=END_SECONDS)
        finally:
            self.process.kill()
        fine = self.process.returncode == 0 and NOTES.fullmatch(err)
        return out if fine else f"status {self.process.returncode}: {out}{err}"


def compare(comparison: Comparison, own: Top) -> None:
    """Run a second `top` that reads the exporter, and a guest with known counts; compare both tables with the guest."""
    checks = comparison.checks
    reading = Top("--source=auto", f"--url=http://{page.ADDRESS}")
    checks.equal("top: own source", own.counting(), f"{SAID}counting with own BPF programs\n")
    said = f"{SAID}reading the exporter at http://{page.ADDRESS} (a process of user "
    checks.equal("top: the exporter as source", reading.counting()[: len(said)], said)
    guest = ExactGuest(identity("top"), *workload.TOP)
    guest.wait_parked()
    guest.end()
    expected = sorted(
        (vcpu.tid, reason, count) for vcpu in guest.vcpus for reason, count in vcpu.exits.items() if reason in REASONS
    )
    for name, printed in (("own programs", own.table()), ("the exporter", reading.table())):
        rows = [line.split() for line in printed.splitlines()[1:]]
        found = sorted((int(row[1]), row[4], int(row[5])) for row in rows if len(row) == 7)
        checks.equal(f"top by {name}: the guest's own counts", found, expected)
        checks.equal(f"top by {name}: {GOLDEN.name}", _masked(printed), GOLDEN.read_text())
    comparison.counted([guest], page.Page.settled())


def _masked(printed: str) -> str:
    """Return the table with placeholders for process ids and times, which differ in each run."""
    return re.sub(r"(?m)^\d+( +)\d+( +)(CPU .*?)(\d+|-)$", _mask, printed)


def _mask(match: re.Match[str]) -> str:
    line, average = match[0], match[4]
    return f"{'<tgid>':<8} {'<tid>':<8} {line[18 : -len(average)].rstrip()}{'<ns>':>14}"
