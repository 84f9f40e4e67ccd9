"""deploy/apt-install.sh runs with stand-ins for apt and dpkg.

It installs only missing packages and starts no service.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(not Path("/var/lib/dpkg").is_dir(), reason="no dpkg")

# The packages "here" and "there" are installed. The stand-in for apt-get writes down its arguments, and the answer that
# policy-rc.d gives at that time.
STAND_INS = {
    "dpkg-query": "case $4 in here|there) printf installed;; gone) printf config-files;; *) exit 1;; esac",
    "id": "echo ${AS:-0}",
    "apt-get": '{ echo "$@"; sh "$POLICY" x start; echo "policy $?"; } >>"$NOTES"; echo noise; eval "${FAIL:-}"',
}


class Host:
    """A folder with the stand-ins, the file policy-rc.d, and the notes that the stand-in for apt-get writes."""

    def __init__(self, folder: Path) -> None:
        self.policy, self.notes = folder / "policy-rc.d", folder / "notes"
        self._programs = folder / "bin"
        self._programs.mkdir()
        for name, script in STAND_INS.items():
            program = self._programs / name
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)

    def start(self, *packages: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [ROOT / "deploy/apt-install.sh", *packages],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                "PATH": f"{self._programs}:{os.environ['PATH']}",
                **{"POLICY": str(self.policy), "NOTES": str(self.notes)},
                **environment,
            },
        )

    def install(self, *packages: str, **environment: str) -> tuple[int | None, str]:
        process = self.start(*packages, **environment)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


INSTALL = "install -y -q --no-install-recommends -o DPkg::Lock::Timeout=600"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_script_installs_the_missing_packages_and_starts_no_service(host: Host) -> None:
    assert host.install("here", "new", "gone", "there") == (0, "installing new gone\n")
    assert host.noted() == ["update -q", "policy 101", f"{INSTALL} new gone", "policy 101"]
    assert not host.policy.exists()


def test_the_script_does_nothing_if_all_packages_are_installed(host: Host) -> None:
    assert host.install("here", "there") == (0, "")
    assert host.noted() == []


def test_without_root_the_script_names_the_missing_packages(host: Host) -> None:
    assert host.install("here", "new", "newer", AS="1000") == (1, "not root: please install new newer\n")
    assert host.noted() == []
    assert not host.policy.exists()


def test_the_script_removes_its_policy_if_apt_fails(host: Host) -> None:
    assert host.install("new", FAIL="exit 100") == (100, "installing new\n")
    assert host.noted() == ["update -q", "policy 101"]
    assert not host.policy.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_script_removes_its_policy_if_a_signal_ends_it(host: Host, number: signal.Signals) -> None:
    assert host.install("new", FAIL=f"kill -{number.value} $PPID") == (128 + number, "installing new\n")
    assert not host.policy.exists()


@pytest.mark.parametrize("status", [0, 101, 104])
def test_the_script_does_not_change_the_policy_of_the_machine(host: Host, status: int) -> None:
    text = f"#!/bin/sh\n# Only while deploy/apt-install.sh of kvm-exit-exporter runs?\nexit {status}\n"
    host.policy.write_text(text)
    assert host.install("new")[0] == 0
    assert host.noted() == ["update -q", f"policy {status}", f"{INSTALL} new", f"policy {status}"]
    assert host.policy.read_text() == text


def test_the_script_does_not_change_a_dangling_link(host: Host) -> None:
    host.policy.symlink_to("nowhere")
    assert host.install("new")[0] == 0
    assert os.readlink(host.policy) == "nowhere"


def test_the_script_removes_the_policy_that_a_killed_run_has_left(host: Host) -> None:
    killed = host.start("new", FAIL="kill -9 $PPID")
    killed.communicate(timeout=60)
    assert (killed.returncode, host.policy.exists()) == (-9, True)
    assert host.install("new") == (0, "installing new\n")
    assert host.noted()[2:] == ["update -q", "policy 101", f"{INSTALL} new", "policy 101"]
    assert not host.policy.exists()


@pytest.mark.skipif(not shutil.which("flock"), reason="no flock")
def test_a_second_run_waits_for_the_first_run(host: Host) -> None:
    """The first run must not remove the policy while the second run installs."""
    runs = [host.start(name, FAIL="sleep 0.3") for name in ("one", "two")]
    assert [run.wait(60) for run in runs] == [0, 0]
    for run in runs:
        run.communicate()
    installed = host.noted()[2::4]
    assert sorted(installed) == [f"{INSTALL} one", f"{INSTALL} two"]
    assert host.noted()[1::2] == ["policy 101"] * 4
    assert not host.policy.exists()
