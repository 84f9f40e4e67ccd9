"""The web server: it owns the listening sockets, and a thread with the event loop that serves them (loop.py)."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from exporter.web.connections import Connections, max_connections
from exporter.web.heartbeat import Heartbeat
from exporter.web.listen import Listener, ListenError, inherited_listener, listen
from exporter.web.loop import CLOSE_SECONDS, LoopServer
from exporter.web.origin import HostNames
from exporter.web.response import Routes
from exporter.web.scrapes import Scrapes
from exporter.web.watched import WatchedSettings


class WebServer:
    """Listening sockets, and a thread that serves them. All sockets listen before the first request is served."""

    def __init__(
        self,
        addresses: Iterable[str],
        inherited_sockets: Sequence[socket.socket] = (),
        *,
        settings: WatchedSettings | None = None,
        max_requests: int = 40,
        host_names: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listen on the addresses. `inherited_sockets` listen already. Raises ListenError.

        `clock`, in seconds, measures the time limits of clients.
        """
        self._listeners: list[Listener] = []
        self._settings = settings or WatchedSettings()
        self._max_requests = max_requests
        self._host_names = HostNames(host_names, socket.gethostname())
        self._clock = clock
        self.connections = Connections(max_connections(), clock)
        self._thread: threading.Thread | None = None
        self._server: LoopServer | None = None
        self._heartbeat: Heartbeat | None = None
        try:
            for inherited in inherited_sockets:
                self._listeners.append(inherited_listener(inherited))
            for address in addresses:
                self._listeners.append(listen(address))
        except ListenError:
            self.close()
            raise

    @property
    def addresses(self) -> list[str]:
        """The addresses of all sockets: host:port with the real port, or unix:/path."""
        return [listener.address for listener in self._listeners]

    @property
    def scheme(self) -> str:
        """`https` if the web configuration has a certificate, else `http`."""
        return "https" if self._settings.current.tls else "http"

    @property
    def files(self) -> list[Path]:
        """The files of the web configuration, which are read again when they change."""
        return self._settings.files

    @property
    def socket_paths(self) -> list[Path]:
        """The files of the unix sockets, which close() removes."""
        return [listener.path for listener in self._listeners if listener.path]

    def chown(self, uid: int, gid: int) -> None:
        """Change the owner and the group of all unix sockets that this server has made. Raises ListenError."""
        for listener in self._listeners:
            listener.chown(uid, gid)

    def serve(self, routes: Routes) -> None:
        """Start to serve requests, and return at once. Raises OSError if no file descriptor is free for the loop."""
        # tornado logs a line for each malformed request. Clients could fill the log with them.
        logging.getLogger("tornado.general").setLevel(logging.CRITICAL)
        self._server = LoopServer(
            routes,
            self._listeners,
            self._settings,
            self.connections,
            scrapes=Scrapes(self._max_requests, self._clock),
            host_names=self._host_names,
        )
        # Make the loop here: if it failed in the thread, the daemon would run and never respond.
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(loop, self._server), name="web", daemon=True)
        self._thread.start()
        self._heartbeat = Heartbeat(loop)
        self._settings.watch()

    def set_routes(self, routes: Routes) -> None:
        """Serve other routes, from the next request on."""
        if self._server:
            self._server.routes = routes

    def responds(self) -> bool:
        """Return False if the event loop hangs. One thread must call this regularly."""
        return self._heartbeat is None or self._heartbeat.beats()

    def close(self) -> None:
        """Stop serving, and close the sockets. Clients have a few seconds to read responses that are being sent."""
        self._settings.close()
        if self._server and self._thread:
            self._server.stop()
            self._thread.join(CLOSE_SECONDS + 2)
            self._thread = None
        for listener in self._listeners:
            listener.close()
        self._listeners = []


def _run(loop: asyncio.AbstractEventLoop, server: LoopServer) -> None:
    """Run the server like asyncio.run(), but in a loop that exists already."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(server.run())
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
