"""systemd itself checks the unit files."""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from exporter.config.options import Config
from exporter.kernel.exit_check import DESCRIPTORS as CHECKED
from exporter.kernel.program import MAPS, TRACEPOINTS
from exporter.service.handover import _KINDS
from tests.support.paths import ROOT

FILES = ROOT / "systemd"
UNIT = (FILES / "kvm-exit-exporter.service").read_text()

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")


def setting(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT, re.M)


@needs_systemd
def test_systemd_accepts_the_unit_files(tmp_path: Path) -> None:
    for file in FILES.glob("*.socket"):
        shutil.copy(file, tmp_path)
    unit = tmp_path / "kvm-exit-exporter.service"
    unit.write_text(UNIT.replace("/usr/bin/kvm-exit-exporter", "/bin/true"))
    command: list[str | Path] = ["systemd-analyze", "verify", "--man=no", unit, tmp_path / "kvm-exit-exporter.socket"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in said.stderr.splitlines() if "kvm-exit-exporter" in line]
    assert (said.returncode, ours) == (0, [])


@needs_systemd
def test_the_sandbox_does_not_get_weaker() -> None:
    """The overall exposure is at most 1.9 of 10.

    Comments in the unit explain everything that its sandbox still allows.
    """
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=19", f"{FILES}/kvm-exit-exporter.service"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


@needs_systemd
def test_the_documentation_explains_each_row_that_the_sandbox_leaves_open() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"{FILES}/kvm-exit-exporter.service"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    left = re.findall(r"^✗ (\S+)", said.stdout, re.M)
    text = (ROOT / "SECURITY.md").read_text()
    section = text.split("## What the unit leaves open")[1].split("\n## ")[0]
    documented = [row.replace("\\|", "|") for row in re.findall(r"^\| `(.*?)` \|", section, re.M)]
    assert left == documented


def test_the_unit_lets_in_no_public_address() -> None:
    assert setting("IPAddressDeny") == ["any"]
    networks = [
        ipaddress.ip_network(word) for word in setting("IPAddressAllow")[0].split() if word[0].isdigit() or ":" in word
    ]
    assert len(networks) == 5
    assert [network for network in networks if network.is_global] == []


def test_the_unit_limits_memory_tasks_and_cpu() -> None:
    assert [setting(name) for name in ("MemoryMax", "TasksMax", "CPUWeight")] == [["1G"], ["512"], ["50"]]


def test_the_settings_of_the_unit_fit_the_program() -> None:
    assert setting("User") == setting("Group") == [Config().run_as]
    assert setting("RuntimeDirectory") == [Path(Config().lock_file).parent.name]
    assert setting("AmbientCapabilities") == setting("CapabilityBoundingSet")
    # Descriptors are stored for all maps, for a program and an attachment of each tracepoint, for the check of
    # kvm_exit, for the state, and for the two files of the ledger.
    stored = len(MAPS["counting"]) + 2 * len(TRACEPOINTS) + len(CHECKED) + 1 + 2
    assert len(_KINDS) == 4
    assert int(setting("FileDescriptorStoreMax")[0]) >= stored
    assert f"u {Config().run_as} -" in (FILES / "kvm-exit-exporter.sysusers").read_text()
    assert Config().lock_file.startswith((FILES / "kvm-exit-exporter.tmpfiles").read_text().split("\nd ")[1].split()[0])
