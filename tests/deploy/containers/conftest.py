from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import __version__
from tests.deploy.containers.engine import Engine

SUITES = ("bookworm", "trixie")


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if os.geteuid():
        pytest.skip("needs root: containers with BPF")
    state: Path = tmp_path_factory.mktemp("engine")
    engine = Engine(state)
    yield engine
    engine("rm", "--all", "--force", "--time=5", check=False)
    engine("rmi", "--all", "--force", check=False, timeout=120)


@pytest.fixture(scope="session", params=SUITES)
def image(request: pytest.FixtureRequest, engine: Engine) -> str:
    """The image, built on each Debian release."""
    suite: str = request.param
    engine.base(suite)
    engine.build(suite, f"localhost/kvm-exit-exporter:{suite}", VERSION=__version__, REVISION="0123abc")
    return f"localhost/kvm-exit-exporter:{suite}"
