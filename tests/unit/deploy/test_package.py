"""The installed package has every file of exporter/: modules, C files, C headers and the recording."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_LIST = """
import pathlib, sys
from setuptools.config.pyprojecttoml import apply_configuration
from setuptools.dist import Distribution
distribution = apply_configuration(Distribution({"script_name": "setup.py"}), "pyproject.toml")
command = distribution.get_command_obj("build_py")
command.ensure_finalized()
print("\\n".join(str(path) for path in command.get_outputs(include_bytecode=False)))
"""


def test_every_file_is_installed(tmp_path: Path) -> None:
    """The test uses a copy of the checkout, because setuptools writes a folder beside the package."""
    pytest.importorskip("setuptools")
    shutil.copytree(ROOT / "exporter", tmp_path / "exporter", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    said = subprocess.run([sys.executable, "-c", _LIST], cwd=tmp_path, capture_output=True, text=True, check=True)
    installed = {line[line.index("exporter/") :] for line in said.stdout.split() if "exporter/" in line}
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "exporter"]
    tracked = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    present = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "exporter").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert installed == (set(tracked) or present)
