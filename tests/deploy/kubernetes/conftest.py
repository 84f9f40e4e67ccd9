from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.kubernetes.kustomize import COMPONENTS, FOLDER, OVERLAYS, Manifest, build, with_components


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder beside the base, because kustomize reads nothing outside its own tree."""
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".test-") as folder:
        yield Path(folder)


@pytest.fixture(params=[*OVERLAYS, FOLDER / "base", *COMPONENTS], ids=lambda path: path.name)
def built(request: pytest.FixtureRequest, scratch: Path) -> dict[str, Manifest]:
    """Each overlay, the base alone, and the base with each component."""
    folder: Path = request.param
    return with_components(scratch, folder) if folder in COMPONENTS else build(folder)
