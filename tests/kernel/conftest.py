"""The kernel suite runs the real programs on the running kernel.

If that is impossible, it skips and names the cause. .ci/run sets KERNEL_SUITE=required: then a missing requirement
fails the tests instead.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from exporter.kernel import launcher, program
from tests.support.machine import Machine
from tests.support.readable import readable
from tests.support.requirements import missing, missing_kvm
from tests.support.services import Service

__all__ = ["readable"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items = [item for item in items if "/kernel/" in str(item.path)]
    attaching = [item for item in items if item.get_closest_marker("kvm")]
    for reason, concerned in ((missing(), items), (missing_kvm(), attaching)):
        if reason and concerned and os.environ.get("KERNEL_SUITE") == "required":
            raise pytest.UsageError(f"the kernel suite is required here, but: {reason}")
        for item in concerned if reason else ():
            item.add_marker(pytest.mark.skip(reason=f"kernel suite: {reason}"))


@pytest.fixture(scope="module")
def machine() -> Iterator[Callable[..., Machine]]:
    """Return machine(front, **request options). It loads programs, which are freed after the module's tests."""
    with ExitStack() as stack:

        def load(front: str = "arm64", **options: Any) -> Machine:
            made = Machine(front, **options)
            stack.callback(made.close)
            return made

        yield load


@pytest.fixture
def loaded_now() -> Iterator[Callable[..., program.Loaded]]:
    with ExitStack() as stack:

        def load(request: program.LoadRequest) -> program.Loaded:
            loaded = launcher.load(request)
            stack.callback(loaded.close)
            return loaded

        yield load


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for the configuration.

    The exporter's user must be able to read it, and only root can read pytest's folders.
    """
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Service]]:
    """Return start(command, *options, prefix). It starts a service, which is ended after the test."""
    with ExitStack() as stack:

        def begin(command: str, *options: str, prefix: Sequence[str] = ()) -> Service:
            config = folder / f"{command}.yaml"
            config.write_text(f"lock_file: {folder}/lock\nrun_as: nobody\nweb: {{listen_address: ['127.0.0.1:0']}}\n")
            service = Service(command, f"--config.file={config}", *options, prefix=prefix)
            stack.callback(service.end)
            return service

        yield begin
