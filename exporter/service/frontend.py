"""The front end consists of the web server and its pages, with the options of the configuration in force."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from exporter.common.logs import event
from exporter.config.options import Config
from exporter.config.values import LOCAL_SOCKET, UNIX_PREFIX
from exporter.kernel.privileges import Account
from exporter.metrics.web import WebStatus
from exporter.page.page import HtmlPage
from exporter.service.routes import RELOAD_BURST, RELOAD_SECONDS, Reload, Render, routes
from exporter.service.viewer import Viewer
from exporter.web.rate_limit import TokenBucket
from exporter.web.response import Routes
from exporter.web.server import WebServer
from exporter.web.watched import WatchedSettings

log = logging.getLogger(__name__)


class Frontend:
    """The web server. It listens from the beginning, and answers after start()."""

    def __init__(
        self,
        config: Config,
        sockets: Sequence[int],
        folder: str,
        render: Render,
        viewer: Viewer,
        *,
        reload: Callable[[], str],
        not_ready: Callable[[], str],
    ) -> None:
        """Listen on the passed `sockets`, or on the addresses of `config`. Raises ListenError, ConfigError.

        If there is a `folder` that only the exporter's user can write to, listen there too: `top` knows by the path who
        answers.
        `not_ready` returns "" or why no program is attached.
        """
        self._render, self._viewer, self._reload, self._not_ready = render, viewer, reload, not_ready
        self._notice = ""
        self._reloads = TokenBucket(RELOAD_SECONDS, RELOAD_BURST)
        self._page = self._new_page(config)
        local = {f"{UNIX_PREFIX}{folder}/{LOCAL_SOCKET}"} - {*config.web.listen_address} if folder else ()
        self._web = WebServer(
            [*(() if sockets else config.web.listen_address), *local],
            [socket.socket(fileno=fd) for fd in sockets],
            settings=WatchedSettings(Path(config.web.config_file)) if config.web.config_file else None,
            max_requests=config.web.max_requests,
            host_names=config.web.host_names,
        )

    @property
    def addresses(self) -> list[str]:
        """The addresses on which it listens, as host:port or unix:/path."""
        return self._web.addresses

    @property
    def files(self) -> list[Path]:
        """The files that the web server reads again."""
        return self._web.files

    @property
    def socket_paths(self) -> list[Path]:
        """The unix sockets that close() removes."""
        return self._web.socket_paths

    def chown(self, account: Account) -> None:
        """Make this account the owner of the unix sockets. The process will run as this account. Raises ListenError."""
        self._web.chown(account.uid, account.gid)

    def start(self, config: Config, notice: str) -> None:
        """Answer requests. `notice` is a text at the top of the page. Raises OSError."""
        self._notice = notice
        self._page = self._new_page(config)
        self._web.serve(self._routes(config))
        for address in self._web.addresses:
            path, tls = config.web.telemetry_path, self._web.scheme == "https"
            event(log, "info", "listening", address=address, path=path, tls=tls)

    def reconfigure(self, config: Config) -> None:
        """Use this configuration from the next request on."""
        self._page = self._new_page(config)
        self._web.set_routes(self._routes(config))

    def responds(self) -> bool:
        """Return False while the web server hangs. One thread must call it regularly, and no other thread."""
        return self._web.responds()

    @property
    def status(self) -> WebStatus:
        """The status of the web server."""
        connections = self._web.connections
        return WebStatus(dict(connections.counts.responses), dict(connections.counts.closed), connections.by_state)

    def tidy(self) -> None:
        """Forget the page's totals if nobody requested the page for a minute."""
        self._page.forget()

    def close(self) -> None:
        """Stop answering. Responses in progress have a few seconds to finish."""
        self._web.close()

    def _new_page(self, config: Config) -> HtmlPage:
        return HtmlPage(
            self._viewer.page_data,
            time.monotonic,
            kernel=f"{os.uname().release} {os.uname().machine}",
            telemetry_path=config.web.telemetry_path,
            notice=self._notice,
        )

    def _routes(self, config: Config) -> Routes:
        reload: Reload | None = self._reload if config.web.enable_lifecycle else None
        path = config.web.telemetry_path
        return routes(
            self._render,
            path,
            self._viewer.document,
            page=self._page,
            not_ready=self._not_ready,
            reload=reload,
            may_reload=lambda: self._reloads.take(time.monotonic()),
        )


NOTICE = "This is a replay of a recording, not this host."
"""The notice at the top of the page of a replay."""
