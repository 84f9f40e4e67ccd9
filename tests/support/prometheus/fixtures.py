"""Fixtures for tests that start servers.

A missing server skips the test. With KERNEL_SUITE=required it fails the test.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.prometheus import builds
from tests.support.requirements import missing


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("KERNEL_SUITE") == "required":
        pytest.fail(f"required here, but: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _programs_can_be_loaded() -> None:
    reason = missing()
    if reason:
        _unavailable(reason)


@pytest.fixture(scope="session")
def build() -> Callable[[str], builds.Build]:
    """Return a function that returns the Prometheus of a suite, or skips the test."""

    def get(suite: str) -> builds.Build:
        found = builds.find(suite)
        return _unavailable(str(found)) if isinstance(found, builds.UnavailableError) else found

    return get


@pytest.fixture(scope="session")
def alertmanager() -> Path:
    """Return the folder with Debian's unpacked Alertmanager, or skip the test."""
    found = builds.find_alertmanager()
    return _unavailable(str(found)) if isinstance(found, builds.UnavailableError) else found
