"""The package that is built here installs and serves on each Debian release: Python 3.9 to 3.14, bcc 0.18 to 0.37."""

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
from tests.deploy.packages.deb import NAME
from tests.deploy.packages.releases import RELEASES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module", params=RELEASES)
def installed(
    request: pytest.FixtureRequest, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tree.Tree]:
    tree.own_mounts()
    folder = tmp_path_factory.mktemp(request.param)
    debian = tree.Tree(folder, RELEASES[request.param])
    shutil.copy(package, debian.root / "tmp/package.deb")
    debian.apt("install", "/tmp/package.deb")
    yield debian
    subprocess.run(["umount", "--recursive", "--lazy", folder], check=True)


def test_the_service_is_enabled_and_its_command_accepts_the_configuration(installed: tree.Tree) -> None:
    assert installed.run(NAME, "--version") == f"{NAME} {__version__}\n"
    assert installed.run("systemctl", "is-enabled", f"{NAME}.service") == "enabled\n"
    installed.run("sh", "-euc", f". /etc/default/{NAME}; runuser -u {NAME} -- {NAME} serve $ARGS --config.check")


def test_the_installed_program_loads_and_serves(installed: tree.Tree, capsys: pytest.CaptureFixture[str]) -> None:
    said = installed.run("sh", "-c", f"{NAME} check || [ $? = 1 ]")  # status 1 if this kernel has no KVM
    assert re.search(r"^trial load +ok ", said, re.MULTILINE), said
    with tree.running(installed, "demo", 3) as url:
        page = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
    assert set(re.findall(r'^kvm_vm_info{.*vm="([^"]*)"', page, re.MULTILINE)) == {"web-1", "db-1", "idle-1"}
    versions = installed.run(
        *("dpkg-query", "--show", "--showformat", "${Package} ${Version}, "),
        *("python3", "python3-bpfcc", "python3-prometheus-client", "python3-tornado", "python3-yaml"),
    )
    with capsys.disabled():
        print(f"\n{versions}")


def test_the_service_of_the_package_answers(installed: tree.Tree) -> None:
    """This machine has no VMs. The service waits for KVM, or counts nothing."""
    with tree.running(installed, "serve", 0) as url:
        page = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
    assert "\nkvm_exit_exporter_replay 0.0\n" in page
    (build,) = re.findall(r"^kvm_exit_exporter_build_info{(.*)} 1\.0$", page, re.MULTILINE)
    assert f'version="{__version__}"' in build
