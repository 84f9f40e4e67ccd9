"""Packages that are built once for all tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.deploy.packages.deb import NEXT, build
from tests.support.paths import ROOT


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a newer version with another config.yaml, built from a checkout without git."""
    checkout = tmp_path_factory.mktemp("newer")
    names = subprocess.run([ROOT / "deploy/files"], capture_output=True, check=True).stdout
    subprocess.run(["xargs", "-0", "cp", "--parents", "-t", checkout], input=names, cwd=ROOT, check=True)
    (checkout / "exporter/__init__.py").write_text(f'"""Newer."""\n\n__version__ = "{NEXT}"\n')
    with (checkout / "config.yaml").open("a") as file:
        file.write("\n# A newer version's.\n")
    return build(checkout, tmp_path_factory.mktemp("built"))
