"""The checks of the software: kernel headers, Python modules, and the trial load of the program."""

from __future__ import annotations

import importlib.metadata

import pytest

from exporter.kernel import program
from exporter.kernel.preflight import Check
from tests.unit.kernel.preflight.host import RELEASE, Host


def test_with_kernel_headers_system_the_headers_must_exist(host: Host) -> None:
    host.kernel_headers = "system"
    build, archive = host.root / "lib/modules" / RELEASE / "build", host.sys / "kernel/kheaders.tar.xz"
    remedy = "install the running kernel's headers, or set kernel_headers: builtin"
    assert host.row("kernel headers") == Check("kernel headers", False, f"no {build} and no {archive}", remedy)
    build.parent.mkdir(parents=True)
    build.symlink_to(host.root / "gone")
    assert host.row("kernel headers").state == "missing"
    archive.write_text("")
    assert host.row("kernel headers") == Check("kernel headers", True, str(archive))
    build.unlink()
    build.mkdir()
    assert host.row("kernel headers") == Check("kernel headers", True, str(build))


def test_with_a_path_in_kernel_headers_the_headers_must_exist_there(host: Host) -> None:
    tree = host.root / "headers"
    host.kernel_headers = str(tree)
    remedy = "give kernel_headers a header tree, or leave it builtin"
    assert host.row("kernel headers") == Check("kernel headers", False, f"no {tree}", remedy)
    tree.mkdir()
    assert host.row("kernel headers") == Check("kernel headers", True, str(tree))


def test_missing_python_modules_are_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    detail = "without prometheus_client, PyYAML, tornado"
    remedy = (
        "install python3-prometheus-client, python3-tornado and python3-yaml (Debian, Ubuntu), "
        "python3-prometheus_client, python3-tornado and python3-pyyaml (Fedora, RHEL)"
    )
    assert host.row("python modules") == Check("python modules", False, detail, remedy)


class LoadError(Exception):
    what = "the verifier refused on_exit"
    remedy = "report it"


class Wordless(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize(
    ("error", "detail", "remedy"),
    [
        (program.LoadError("no bcc", "apt install python3-bpfcc"), "no bcc", "apt install python3-bpfcc"),
        (program.LoadError("no bcc"), "no bcc", ""),
        (LoadError("unseen"), "the verifier refused on_exit", "report it"),
        (OSError(1, "Operation not permitted"), "[Errno 1] Operation not permitted", ""),
        (Wordless(), "Wordless", ""),
    ],
)
def test_an_error_of_the_trial_load_is_shown_with_its_remedy(
    host: Host, error: Exception, detail: str, remedy: str
) -> None:
    def trial() -> str:
        raise error

    assert host.row("trial load", trial=trial) == Check("trial load", False, detail, remedy)
