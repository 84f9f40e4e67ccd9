"""The fault tests run on the running kernel, as root. They are skipped when the kernel suite is skipped."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults import driver, figures
from tests.support.requirements import missing, missing_kvm

pytest.register_assert_rewrite("tests.faults.service")

from tests.faults.service import Service  # noqa: E402 - imported after the registration of its asserts


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Return the function start(**options of Service). It starts a service, and the service is ended after the test."""
    with ExitStack() as stack:

        def begin(**options: object) -> Service:
            service = Service(tmp_path, **options)  # type: ignore[arg-type]
            stack.callback(service.end)
            return service

        yield begin


@pytest.fixture
def free_port() -> int:
    """A free port. A test needs it if it cannot read the port from the service's log."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items = [item for item in items if "/faults/" in str(item.path)]
    attaching = [item for item in items if item.get_closest_marker("kvm")]
    compiler = "" if driver.have_compiler() else "no gcc"
    for reason, concerned in ((missing() or compiler, items), (missing_kvm(), attaching)):
        if reason and concerned and os.environ.get("KERNEL_SUITE") == "required":
            raise pytest.UsageError(f"the faults are required here, but: {reason}")
        for item in concerned if reason else ():
            item.add_marker(pytest.mark.skip(reason=f"faults: {reason}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if figures.LINES:
        terminalreporter.section("faults: events sent and events counted")
        for line in figures.LINES:
            terminalreporter.write_line(line)
