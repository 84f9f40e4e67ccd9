"""The RPM: built by Debian's rpm with additional macros. Its files are those of the Debian package."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from exporter import __version__
from tests.deploy.packages.deb import NAME, contents
from tests.support.paths import ROOT

MACROS = Path(__file__).with_name("macros")

pytestmark = pytest.mark.skipif(not shutil.which("rpmbuild"), reason="no rpmbuild")


def output(*command: str | Path) -> str:
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


@pytest.fixture(scope="module")
def rpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # --nodeps: the spec's build requirements are installed, but as Debian packages and not in rpm's database.
    folder = tmp_path_factory.mktemp("rpm")
    return Path(output(ROOT / "deploy/rpm/build", folder, "--nodeps", "--load", MACROS).strip())


def test_rpmspec_reads_the_spec_without_warnings() -> None:
    said = subprocess.run(
        ["rpmspec", "--load", MACROS, "-P", ROOT / f"deploy/rpm/{NAME}.spec"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stderr == ""


def test_rpmlint_reports_nothing(rpm: Path) -> None:
    spec = ROOT / f"deploy/rpm/{NAME}.spec"
    said = output("rpmlint", "-c", ROOT / "deploy/rpm/rpmlint.toml", spec, *rpm.parent.glob("*.rpm"))
    assert "0 errors, 0 warnings" in said, said


def test_the_package_has_the_version_and_its_requirements(rpm: Path) -> None:
    assert output("rpm", "-qp", "--qf", "%{VERSION} %{ARCH}", rpm) == f"{__version__} noarch"
    needs = set(output("rpm", "-qp", "--requires", rpm).splitlines())
    bcc = "(python3-bcc >= 0.18 or python3-bpfcc >= 0.18)"
    assert {bcc, "python3-pyyaml >= 5.3.1", "python3-prometheus_client >= 0.9", "/usr/sbin/useradd"} <= needs


def test_configuration_files_are_marked_as_noreplace(rpm: Path) -> None:
    listed = output("rpm", "-qp", "--qf", "[%{FILEFLAGS:fflags} %{FILENAMES}\n]", rpm).splitlines()
    assert {line.split()[1] for line in listed if line.startswith("cn ")} == {
        f"/etc/{NAME}/config.yaml",
        f"/etc/sysconfig/{NAME}",
    }


def test_the_unit_reads_sysconfig(rpm: Path, tmp_path: Path) -> None:
    unpacked = f"rpm2cpio {rpm} | cpio -id --quiet"
    subprocess.run(unpacked, shell=True, cwd=tmp_path, check=True)
    unit = (tmp_path / f"usr/lib/systemd/system/{NAME}.service").read_text()
    assert f"EnvironmentFile=-/etc/sysconfig/{NAME}\n" in unit
    assert "/etc/default" not in unit


# Folders of the Debian package, and the folders of the same files in the RPM.
PLACES = {
    "/etc/default/": "/etc/sysconfig/",
    "/lib/systemd/": "/usr/lib/systemd/",
    "/usr/share/zsh/vendor-completions/": "/usr/share/zsh/site-functions/",
}
# Files that only one of the two packages has.
DEBIAN = (f"/usr/share/doc/{NAME}/c", "/usr/share/lintian/", "/usr/share/python3/runtime.d/")
RPM = ("/usr/share/licenses/", f"/usr/share/doc/{NAME}/CHANGELOG.md")


def test_the_files_are_those_of_the_debian_package(rpm: Path, package: Path) -> None:
    ours = set()
    for name in contents(package):
        if not name.endswith("/") and not name.startswith(DEBIAN):
            (old, new), *_ = [pair for pair in PLACES.items() if name.startswith(pair[0])] or [("", "")]
            ours.add((new + name[len(old) :]).removesuffix(".gz"))
    listed = output("rpm", "-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\n]", rpm).splitlines()
    files = {line.split()[1] for line in listed if line[0] != "d"}
    own = {name for name in files if name.startswith(RPM) or "__pycache__" in name or name.endswith("/COPYING")}
    assert {name.removesuffix(".gz") for name in files - own} == ours
