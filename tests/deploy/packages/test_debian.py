"""The Debian package on Debian 12: its files, installation, use, upgrade, removal and purge."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import __version__
from tests.deploy.packages import tree
from tests.deploy.packages.deb import NAME, NEXT, build, contents
from tests.support.paths import ROOT

CONFIG = f"etc/{NAME}/config.yaml"
ENABLED = {f"etc/systemd/system/multi-user.target.wants/{NAME}.service"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tree.Tree]:
    tree.own_mounts()
    folder = tmp_path_factory.mktemp("tree")
    yield tree.Tree(folder)
    subprocess.run(["umount", "--recursive", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def before(debian: tree.Tree) -> set[str]:
    return debian.files()


def test_the_package_has_the_version_and_the_expected_files(package: Path) -> None:
    assert package.name == f"{NAME}_{__version__}-1_all.deb"
    tracked = subprocess.run([ROOT / "deploy/files"], capture_output=True, check=True).stdout.decode().split("\0")
    code = {f"/usr/share/{NAME}/{name}" for name in tracked if name.startswith("exporter/") and "COPYING" not in name}
    found = {name for name in contents(package) if not name.endswith("/")}
    assert {name for name in found if name.startswith(f"/usr/share/{NAME}/")} == code
    assert {name for name in found if name.startswith("/etc/")} == {f"/{CONFIG}", f"/etc/default/{NAME}"}
    examples = {name.rpartition("/")[2] for name in found if "/examples/" in name}
    assert examples == {
        path.name for path in (*ROOT.glob("deploy/prometheus/*.rules.yml"), *ROOT.glob("deploy/grafana/dashboards/*"))
    }


def test_a_second_build_is_byte_for_byte_equal(package: Path, tmp_path: Path) -> None:
    assert build(ROOT, tmp_path).read_bytes() == package.read_bytes()


def test_lintian_reports_nothing(package: Path) -> None:
    command = ["lintian", "--allow-root", "-iIE", "--pedantic", "--fail-on=error,warning,info,pedantic"]
    said = subprocess.run([*command, package.with_name(package.name.replace("_all.deb", f"_{_machine()}.changes"))],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert said.returncode == 0, said.stdout
    assert not re.search("^[EWIP]: ", said.stdout, re.MULTILINE), said.stdout


def _machine() -> str:
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def test_installation_creates_the_user_and_enables_the_service(
    debian: tree.Tree, package: Path, before: set[str]
) -> None:
    shutil.copy(package, debian.root / "tmp/package.deb")
    debian.apt("install", "/tmp/package.deb")
    assert debian.run(NAME, "--version") == f"{NAME} {__version__}\n"
    assert re.fullmatch(
        rf"{NAME}:x:\d+:\d+:[^:]+:/nonexistent:/usr/sbin/nologin", debian.run("getent", "passwd", NAME).strip()
    )
    assert debian.run("systemctl", "is-enabled", f"{NAME}.service") == "enabled\n"
    assert debian.run("systemctl", "is-enabled", f"{NAME}.socket", status=1) == "disabled\n"
    assert debian.run("systemd-analyze", "verify", "--man=no", f"{NAME}.service") == ""


def test_the_program_runs_in_any_folder_and_imports_only_its_own_code(debian: tree.Tree) -> None:
    (debian.root / "tmp/exporter.py").write_text("raise SystemExit('the wrong one')\n")
    said = debian.run("sh", "-c", f"cd /tmp && PYTHONPATH=/tmp {NAME} --version")
    assert said == f"{NAME} {__version__}\n"


def test_the_units_command_accepts_the_shipped_configuration(debian: tree.Tree) -> None:
    debian.run("sh", "-euc", f". /etc/default/{NAME}; runuser -u {NAME} -- {NAME} serve $ARGS --config.check")


def test_check_can_load_the_program(debian: tree.Tree) -> None:
    said = debian.run("sh", "-c", f"{NAME} check || [ $? = 1 ]")  # status 1 if this kernel has no KVM
    assert re.search(r"^trial load +ok ", said, re.MULTILINE), said


def test_demo_answers(debian: tree.Tree) -> None:
    with tree.running(debian, "demo", 3) as url:
        page = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
    assert "\nkvm_exit_exporter_replay 1.0\n" in page
    assert set(re.findall(r'^kvm_vm_info{.*vm="([^"]*)"', page, re.MULTILINE)) == {"web-1", "db-1", "idle-1"}


def test_man_shows_the_manual_page_without_warnings(debian: tree.Tree) -> None:
    assert debian.run("man", "-w", NAME) == f"/usr/share/man/man8/{NAME}.8.gz\n"
    page = debian.run("env", "MANPAGER=cat", "MANWIDTH=100", "man", "--warnings", NAME)
    (summary,) = re.findall(r"^\.Nd (.*)$", (ROOT / "docs/man" / f"{NAME}.8").read_text(), re.MULTILINE)
    assert summary in page
    assert "warning" not in page


def test_shells_find_the_completion_file_by_its_name(debian: tree.Tree) -> None:
    script = f"""
        . /usr/share/bash-completion/bash_completion
        _completion_loader {NAME}
        COMP_WORDS=({NAME} rep) COMP_CWORD=1
        _kvm_exit_exporter
        echo "${{COMPREPLY[@]}}"
    """
    assert debian.run("bash", "-c", script) == "replay\n"


def test_an_upgrade_keeps_a_changed_configuration(debian: tree.Tree, newer: Path) -> None:
    with (debian.root / CONFIG).open("a") as file:
        file.write("\nlinger: 7m\n")
    changed = (debian.root / CONFIG).read_bytes()
    shutil.copy(newer, debian.root / "tmp/newer.deb")
    debian.apt("install", "/tmp/newer.deb")
    assert debian.run(NAME, "--version") == f"{NAME} {NEXT}\n"
    assert (debian.root / CONFIG).read_bytes() == changed
    assert (debian.root / f"{CONFIG}.dpkg-dist").read_bytes().endswith(b"# A newer version's.\n")


def test_remove_keeps_only_the_configuration(debian: tree.Tree, before: set[str]) -> None:
    debian.apt("remove", NAME)
    left = {name for name in debian.files() - before if not name.startswith("var/lib/systemd/deb-systemd-helper-")}
    assert left == {f"etc/{NAME}", CONFIG, f"{CONFIG}.dpkg-dist", f"etc/default/{NAME}"} | ENABLED


def test_purge_keeps_only_the_user(debian: tree.Tree, before: set[str]) -> None:
    debian.apt("purge", NAME)
    assert debian.files() == before
    assert debian.run("getent", "passwd", NAME)
