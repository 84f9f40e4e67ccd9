"""Hosts for the tests of the preflight."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.kernel.preflight.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def nobodys_host() -> Iterator[Host]:
    """A host that is checked without privileges. Every user may enter its directory."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        host = Host(Path(name))
        if root := os.geteuid() == 0:
            os.seteuid(65534)
        try:
            yield host
        finally:
            if root:
                os.seteuid(0)
            for path in Path(name).rglob("*"):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o755)
