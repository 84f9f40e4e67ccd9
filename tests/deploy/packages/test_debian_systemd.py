"""The Debian package on a KVM host with systemd: its start, an upgrade that loses no count, and its purge."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporter import __version__
from tests.deploy.packages.deb import NEXT
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


# bullseye has the lowest versions that the package may depend on.
@pytest.mark.parametrize("host", ["arm64", "bullseye-arm64"])
def test_an_upgrade_under_systemd_loses_no_count(host: str, package: Path, newer: Path) -> None:
    command: list[str | Path] = [
        *(sys.executable, ROOT / "tests/e2e/run.py", host, "--systemd", "--timeout", "500"),
        *("--extra", f"old.deb={package}", "--extra", f"new.deb={newer}"),
        *("--command", f"python3 tests/e2e/package_scenario.py {__version__} {NEXT}"),
    ]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert said.returncode == 0, said.stdout
    assert " passed, 0 failed" in said.stdout.splitlines()[-1]
