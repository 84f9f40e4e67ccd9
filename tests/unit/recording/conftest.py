"""Files that the tests of this room read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recordings import from_ftrace
from tests.unit.recording.small import HEADER, SMALL, VM


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.kvmrec"
    from_ftrace.write(path, HEADER, [VM], SMALL)
    return path
