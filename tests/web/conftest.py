from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.web import watched
from exporter.web.response import Routes
from exporter.web.server import WebServer
from exporter.web.watched import WatchedSettings
from tests.web import certificates
from tests.web.client import app

Serve = Callable[..., WebServer]


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    for name in ("ca", "other"):
        certificates.authority(folder, name)
    certificates.signed(folder, "server", "ca", "DNS:localhost,IP:127.0.0.1")
    certificates.signed(folder, "renewed", "ca", "DNS:localhost,IP:127.0.0.1")
    certificates.signed(folder, "prometheus", "ca", "DNS:prometheus.example,IP:::1,URI:spiffe://example/prometheus")
    certificates.signed(folder, "stranger", "other", "DNS:prometheus.example")
    return folder


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return start(config). It starts a server, which is closed after the test. `config` may be a path."""
    started: list[WebServer] = []

    def start(
        config: Path | WatchedSettings | None = None, *, routes: Routes | None = None, **options: object
    ) -> WebServer:
        addresses = options.pop("addresses", ["127.0.0.1:0"])
        settings = config if isinstance(config, WatchedSettings) else WatchedSettings(config)
        web = WebServer(addresses, settings=settings, **options)  # type: ignore[arg-type]
        started.append(web)
        web.serve(routes or app())
        return web

    yield start
    for web in started:
        web.close()


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the timer that checks for changed files. Only the test's calls of check_files() check them."""
    monkeypatch.setattr(watched, "_POLL_SECONDS", 600.0)
