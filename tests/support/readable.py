"""Copy the package for tests that run it as a user who cannot read this checkout."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PYTHON = os.path.realpath(sys.executable)
"""The system's Python. The virtual environment's Python may be inside the checkout."""


def copy_package(folder: Path) -> None:
    """Copy the package `exporter` into this folder."""
    shutil.copytree(ROOT / "exporter", folder / "exporter", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="session")
def readable() -> Iterator[Path]:
    """A folder with a copy of the package that every user can read.

    To import the copy, make this folder the current directory.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_package(folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield folder
