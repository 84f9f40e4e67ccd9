"""The end of tests/e2e/matrix.py: a table of all boots, one total, and the exit status."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

RUN = """\
import pathlib, sys
pathlib.Path(__file__).with_name("calls").open("a").write(" ".join(sys.argv[1:]) + "\\n")
print("aarch64, Linux 5.10.0-32-cloud-arm64, Python 3.9.2, bcc 0.18.0+ds-2, prometheus_client 0.9.0-1, tornado 6.1")
print("plain 0 once EC_HVC64 17 17 17 0")
{more}
"""
GOOD = 'print("83 rows, 1009 exits, 0 different, 0 skipped\\n101 passed, 0 failed")'
BAD = 'print("83 rows, 1009 exits, 1 different, 0 skipped\\n97 passed, 3 failed")'
LINE = "bullseye-arm64  {:<9} 5.10.0-32-cloud-arm64        3.9.2   0.18.0+ds-2  0.9.0-1           "


def matrix(folder: Path, more: str, *hosts: str) -> subprocess.CompletedProcess[str]:
    for name in ("matrix.py", "hosts.py", "apt.py"):
        shutil.copy(ROOT / "tests/e2e" / name, folder)
    (folder / "run.py").write_text(RUN.format(more=more))
    command = [sys.executable, str(folder / "matrix.py"), *hosts]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_host_boots_once_for_each_scenario(tmp_path: Path) -> None:
    said = matrix(tmp_path, GOOD, "bullseye-arm64")
    assert said.returncode == 0
    calls = ["bullseye-arm64 -- --no-linux", "--systemd bullseye-arm64 -- --short"]
    assert (tmp_path / "calls").read_text().splitlines() == calls
    *_, head, first, second, total = said.stdout.splitlines()
    versions = ["Linux", "Python", "bcc", "prometheus_client"]
    assert head.split() == ["host", "boot", *versions, "rows", "exits", "different", "skipped", "passed", "failed", "s"]
    for line, scenario in ((first, "scenario"), (second, "restart")):
        assert line.startswith(LINE.format(scenario))
        assert line.split()[6:12] == ["83", "1009", "0", "0", "101", "0"]
    assert total == "202 passed, 0 failed"


@pytest.mark.parametrize(
    ("more", "total"),
    [
        (f"{BAD}; sys.exit(1)", "194 passed, 6 failed"),
        ("sys.exit(125)", "0 passed, 2 failed"),  # the machine stopped
        ("", "0 passed, 2 failed"),  # a run without a result
        (f"{GOOD}; sys.exit(124)", "202 passed, 2 failed"),  # a status without a failed check
    ],
)
def test_a_failure_is_counted(tmp_path: Path, more: str, total: str) -> None:
    said = matrix(tmp_path, more, "bullseye-arm64")
    assert said.returncode == 1
    assert said.stdout.splitlines()[-1] == total


def test_all_hosts(tmp_path: Path) -> None:
    assert matrix(tmp_path, GOOD).returncode == 0
    hosts = [line.removeprefix("--systemd ").split()[0] for line in (tmp_path / "calls").read_text().splitlines()]
    suites = ["bullseye-{}", "{}", "trixie-{}", "sid-{}"]
    names = [suite.format(architecture) for suite in suites for architecture in ("arm64", "amd64")]
    assert hosts == [name for name in names for _ in range(2)]


def test_an_unknown_host(tmp_path: Path) -> None:
    said = matrix(tmp_path, GOOD, "arm64", "buster-arm64")
    assert said.returncode == 2
    assert "unknown host: buster-arm64" in said.stderr
    assert not (tmp_path / "calls").exists()
