"""`top` beside the exporter, with both of its sources: the same table, to the letter, as the guest's own counts say."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import page
import workload
from checks import Checks
from oracle import ARM64
from vms import ExactGuest, identity

GOLDEN = Path(__file__).resolve().parent / "golden" / f"top-{'arm64' if ARM64 else 'amd64'}.txt"
REASONS = ("EC_DABT_LOW", "EC_HVC64", "EC_SYS64") if ARM64 else ("io", "cpuid", "msr")
SAID = "kvm-exit-exporter top: "
END_SECONDS = 60
# A guest that was there before is parked in its last exit, and the table has no row for it.
NOTES = re.compile(rf"({SAID}in no row, because the exit began earlier: .*\n)?")


class Top:
    """A `top` that counts until Ctrl-C. Its rows are of what no interrupt of the host can change."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "exporter", "top", *options, f"--reason={','.join(REASONS)}", "--sort=count"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def counting(self) -> str:
        """Wait until it counts; returns what it says of its source."""
        assert self.process.stderr
        said = self.process.stderr.readline()
        self.process.stderr.readline()  # that Ctrl-C ends it
        return said

    def table(self) -> str:
        """End it; returns what it printed."""
        self.process.send_signal(signal.SIGINT)
        try:
            out, err = self.process.communicate(timeout=END_SECONDS)
        finally:
            self.process.kill()
        fine = self.process.returncode == 0 and NOTES.fullmatch(err)
        return out if fine else f"status {self.process.returncode}: {out}{err}"


def compare(checks: Checks, own: Top) -> None:
    """Run another beside `own` and the exporter, and a guest of known counts that begins and ends meanwhile."""
    reading = Top("--source=auto", f"--url=http://{page.ADDRESS}")
    checks.equal("top: own source", own.counting(), f"{SAID}counting with own BPF programs\n")
    said = f"{SAID}reading the exporter at http://{page.ADDRESS}, which runs already"
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


def _masked(printed: str) -> str:
    """The table without process IDs and times, which no two runs share."""
    return re.sub(r"(?m)^\d+( +)\d+( +)(CPU .*?)(\d+|-)$", _mask, printed)


def _mask(match: re.Match[str]) -> str:
    line, average = match[0], match[4]
    return f"{'<tgid>':<8} {'<tid>':<8} {line[18 : -len(average)].rstrip()}{'<ns>':>14}"
