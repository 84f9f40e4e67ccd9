"""Run the scenarios on hosts with different kernels, Pythons and versions of bcc, one host after the other.

    python3 tests/e2e/matrix.py [HOST...]      # without a name: all hosts of the matrix

Each host boots twice: for scenario.py without its Linux guests, and for the short systemd_scenario.py, which restarts
and kills the service. The output ends with a table of the hosts and "N passed, M failed" over all of them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hosts import HOSTS, MATRIX

RUN = Path(__file__).resolve().parent / "run.py"
# By name: the options of run.py, and those of the scenario.
SCENARIOS = {"scenario": ([], ["--no-linux"]), "restart": (["--systemd"], ["--short"])}
COLUMNS = ("Linux", "Python", "bcc", "prometheus_client")
LINE = "{:<15} {:<9} {:<28} {:<7} {:<12} {:<18} {:>5} {:>7} {:>9} {:>7} {:>7} {:>7} {:>6}"


@dataclass(frozen=True)
class Result:
    """What one boot of a host printed."""

    host: str
    scenario: str
    versions: dict[str, str]
    compared: tuple[int, ...]  # rows, exits, different rows, events that the kernel skipped
    passed: int
    failed: int
    seconds: float

    def line(self) -> str:
        """Return its line of the table."""
        versions = [self.versions.get(name, "?") for name in COLUMNS]
        compared = self.compared or ("?",) * 4
        seconds = f"{self.seconds:.0f}"
        return LINE.format(self.host, self.scenario, *versions, *compared, self.passed, self.failed, seconds)


def parse(host: str, scenario: str, output: str, status: int, seconds: float) -> Result:
    """Read the output of run.py. A run without a result, and one that ended with another status, has a failure."""
    line = re.search(r"^\w+, (Linux .*)$", output, re.MULTILINE)
    versions = dict(part.split(" ", 1) for part in line[1].split(", ")) if line else {}
    compared = re.search(r"^(\d+) rows, (\d+) exits, (\d+) different, (\d+) skipped$", output, re.MULTILINE)
    counted = re.search(r"\b(\d+) passed, (\d+) failed$", output, re.MULTILINE)
    passed, failed = (int(number) for number in counted.groups()) if counted else (0, 0)
    if not failed and (status or not counted):
        failed = 1
    numbers = tuple(int(number) for number in compared.groups()) if compared else ()
    return Result(host, scenario, versions, numbers, passed, failed, seconds)


def run(host: str, scenario: str) -> Result:
    """Boot a host, run a scenario, and pass its output on."""
    began = time.monotonic()
    options, arguments = SCENARIOS[scenario]
    command = [sys.executable, str(RUN), *options, host, "--", *arguments]
    output = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            output.append(line)
    return parse(host, scenario, "".join(output), process.returncode, time.monotonic() - began)


def table(results: list[Result]) -> str:
    """Return the table and the total."""
    names = ("host", "boot", *COLUMNS, "rows", "exits", "different", "skipped", "passed", "failed", "s")
    passed, failed = sum(result.passed for result in results), sum(result.failed for result in results)
    return "\n".join([LINE.format(*names), *(one.line() for one in results), f"{passed} passed, {failed} failed"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hosts", nargs="*", metavar="HOST", help=f"one of {', '.join(HOSTS)}")
    names = parser.parse_args().hosts or [host.name for host in MATRIX]
    unknown = [name for name in names if name not in HOSTS]
    if unknown:
        parser.error(f"unknown host: {', '.join(unknown)}")
    results = [run(name, scenario) for name in names for scenario in SCENARIOS]
    print(table(results))
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
