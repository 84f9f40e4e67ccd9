"""The part of the web server that runs in the event loop. The loop handles all connections; one thread makes pages.

A slow, idle or silent client costs the loop a few kilobytes, but no thread. tornado parses HTTP. The limits that
tornado lacks are in connections.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# tornado imports this module with its first event loop. By then root is dropped, and only root may be able to read it.
import tornado.platform.asyncio  # noqa: F401
from tornado import httputil
from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer

from exporter.common.logs import event
from exporter.web.accept import Acceptor
from exporter.web.auth import Passwords, QueueFullError
from exporter.web.clients import client_of
from exporter.web.connections import IDLE_SECONDS, REQUEST_SECONDS, Connections
from exporter.web.exchange import MAX_BODY, Exchange
from exporter.web.listen import Listener
from exporter.web.origin import HostNames
from exporter.web.response import Response, Routes, text_response
from exporter.web.scrapes import Scrapes
from exporter.web.stream import READ_CHUNK, TimedStream, TimedTlsStream
from exporter.web.tls import alternative_names
from exporter.web.turns import Turns
from exporter.web.watched import WatchedSettings

log = logging.getLogger(__name__)

MAX_HEADER = 1 << 14
"""Limit of the request line and the headers, in bytes."""
CLOSE_SECONDS = 3.0
"""How long a stop waits for responses that are being sent."""
_SWEEP_SECONDS = 1.0
"""Time between two checks of the connections' time limits."""
_TCP_NOTSENT_LOWAT = 25  # include/uapi/linux/tcp.h; Python's socket has the name from 3.12 on
_MAX_UNSENT_BYTES = 1 << 17
"""Limit of unsent bytes in the kernel's send buffer of a connection.

A page for a slow client is already in memory as cached pieces. The send buffer must not hold a second copy.
"""


class LoopServer(httputil.HTTPServerConnectionDelegate):
    """Serves requests in the thread of the event loop. Other threads may call stop() and set `routes`."""

    def __init__(
        self,
        routes: Routes,
        listeners: Sequence[Listener],
        settings: WatchedSettings,
        connections: Connections,
        *,
        scrapes: Scrapes,
        host_names: HostNames,
    ) -> None:
        self.routes = routes
        self._executor = ThreadPoolExecutor(1, "page")
        self.turns = Turns(self._executor)
        self.scrapes = scrapes
        self.host_names = host_names
        self._settings = settings
        self._passwords = Passwords()
        self._connections = connections
        self._acceptor = Acceptor([listener.socket for listener in listeners], connections, self._start)
        self._stopping = threading.Event()
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Make run() return. Any thread may call this."""
        self._stopping.set()
        if self._loop and self._wake:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Serve requests until stop()."""
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(_log_exception)
        self._http = HTTPServer(
            self,
            chunk_size=READ_CHUNK,
            max_header_size=MAX_HEADER,
            max_body_size=MAX_BODY,
            # tornado has one common limit for the idle time and the header. connections.py has a limit for each.
            idle_connection_timeout=IDLE_SECONDS + REQUEST_SECONDS,
        )
        self._acceptor.start()
        while not self._stopping.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _SWEEP_SECONDS if len(self._connections) else None)
            try:
                self._connections.close_overdue()
            except Exception as error:  # a defect of the exporter: scrapes go on
                event(log, "error", "overdue connections could not be closed", err=error)
            if not self._stopping.is_set():
                self._wake.clear()
        await self._finish()

    async def _finish(self) -> None:
        """Stop accepting, wait for responses that are being sent, and close all connections."""
        self._acceptor.stop()
        until = time.monotonic() + CLOSE_SECONDS
        while self._connections.busy and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for stream in self._connections:
            stream.close()
        await asyncio.sleep(0)  # tasks that wait for these connections end now
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._passwords.close()

    # --- connections ---

    def _start(self, connection: socket.socket, address: Any) -> None:
        """Serve an accepted connection, after the TLS handshake if there is TLS."""
        is_first = not len(self._connections)
        settings = self._settings.current
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _MAX_UNSENT_BYTES)
            connection.setblocking(False)
            if settings.tls:
                connection = settings.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # the client has closed it already
            connection.close()
            return
        stream = (
            TimedTlsStream(connection, self._connections)
            if settings.tls
            else TimedStream(connection, self._connections)
        )
        self._connections.add(stream)
        if is_first and self._wake:
            self._wake.set()  # run() checks time limits only while there are connections
        if isinstance(stream, TimedTlsStream):
            task = asyncio.get_running_loop().create_task(self._handshake(stream, address, settings.client_sans))
            task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        else:
            self._http.handle_stream(stream, address)

    async def _handshake(self, stream: TimedTlsStream, address: Any, allowed_sans: frozenset[str]) -> None:
        try:
            await stream.wait_for_handshake()
        except Exception:  # a client can send anything in place of a handshake
            self._connections.counts.closed["tls_handshake"] += 1
            stream.close()
            return
        if allowed_sans and not alternative_names(stream.socket.getpeercert() or {}) & allowed_sans:
            stream.close_for("tls_handshake")
            return
        self._http.handle_stream(stream, address)

    def start_request(
        self,
        server_conn: object,  # noqa: ARG002 - tornado's interface
        request_conn: httputil.HTTPConnection,
    ) -> Exchange:
        """Return the exchange for the next request of a connection. tornado calls this."""
        assert isinstance(request_conn, HTTP1Connection)
        stream = request_conn.stream
        assert isinstance(stream, TimedStream)
        client = client_of(getattr(request_conn.context, "remote_ip", ""))
        return Exchange(self, request_conn, stream, client)

    # --- ServerInterface ---

    @property
    def headers(self) -> Iterable[tuple[str, str]]:
        """Headers that the operator adds to every response."""
        return self._settings.current.headers

    async def authorize(self, authorization: str, client: str) -> Response | None:
        """Return the response that refuses a client; None if the client may send requests."""
        settings = self._settings.current
        if settings.rate_limit and not settings.rate_limit.take(time.monotonic()):
            return text_response(429)
        try:
            if not settings.users or await self._passwords.check(settings.users, authorization, client):
                return None
        except QueueFullError:
            return text_response(429)
        return text_response(401, "", ("WWW-Authenticate", 'Basic realm="kvm-exit-exporter", charset="UTF-8"'))


def _log_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception that no code caught. A broken connection (OSError) is logged at level debug only."""
    error = context.get("exception")
    level = "debug" if isinstance(error, OSError) else "error"
    fields = {"err": error} if error else {}
    event(log, level, str(context.get("message", "an error in the web server")), **fields)
