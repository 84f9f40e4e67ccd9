"""One demo, and one browser, for all tests of the page; each test starts with a fresh page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.browser.chromium import Browser, browser
from tests.support.prometheus.exporters import Demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    made = Demo(tmp_path_factory.mktemp("demo"), speed=1)
    yield made
    made.end()


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not shutil.which("chromium"):
        pytest.skip("chromium is not installed")
    with browser(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@pytest.fixture
def chromium(_chromium: Browser) -> Iterator[Browser]:
    """A window of 1280 pixels; nothing may be said on its console."""
    made = _chromium
    made.open("about:blank")
    made.events.clear()
    made.size(1280)
    made.scheme("light")
    made.ask("Emulation.setScriptExecutionDisabled", value=False)
    yield made
    assert made.said() == []
