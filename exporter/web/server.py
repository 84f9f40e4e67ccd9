"""The HTTP server: one event loop takes every connection, a few threads make the pages.

A client that is slow, idle or silent costs the loop a few kilobytes and no thread. tornado parses HTTP; what it does
not limit by itself is limited in connections.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from tornado import httputil
from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer

from exporter.common.logs import event
from exporter.web import tls
from exporter.web.answer import Answer, Routes, text
from exporter.web.auth import CrowdedError, Passwords
from exporter.web.connections import HEADER_SECONDS, IDLE_SECONDS, Connections, most_connections
from exporter.web.exchange import MAX_BODY, Exchange
from exporter.web.listen import Listener, ListenError, inherited, listen
from exporter.web.pulse import Pulse
from exporter.web.stream import READ_CHUNK, TimedStream, TimedTlsStream
from exporter.web.watched import Watched

log = logging.getLogger(__name__)

MAX_HEADER = 1 << 14
_THREADS = 4
_ACCEPTS = 1000  # at a time, before the connections there are have their turn
_SWEEP_SECONDS = 1.0
_CLOSE_SECONDS = 3.0
"""For how long close() waits for answers under way."""
_PAUSE_SECONDS = 0.1
_SAY_SECONDS = 3600.0
_TCP_NOTSENT_LOWAT, _LOWAT = 25, 1 << 17  # include/uapi/linux/tcp.h; socket has the name from Python 3.12 on
"""A slow reader's page lies in our cached pieces, not once more in the kernel's send buffer."""


class WebServer:
    """Listening sockets, and a thread that answers on them. All are bound before the first answers."""

    def __init__(
        self,
        addresses: Iterable[str],
        inherited_sockets: Sequence[socket.socket] = (),
        *,
        settings: Watched | None = None,
        max_requests: int = 40,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listen. `inherited_sockets` listen already; `clock`, in seconds, times the clients. Raises ListenError."""
        self._listeners: list[Listener] = []
        self._settings = settings or Watched()
        self._max_requests = max_requests
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._server: _LoopServer | None = None
        self._pulse: Pulse | None = None
        try:
            for given in inherited_sockets:
                self._listeners.append(inherited(given))
            for address in addresses:
                self._listeners.append(listen(address))
        except ListenError:
            self.close()
            raise

    @property
    def addresses(self) -> list[str]:
        """What is listened on: host:port with the real port, unix:/path."""
        return [listener.address for listener in self._listeners]

    @property
    def scheme(self) -> str:
        """`https` where the web configuration has a certificate, else `http`."""
        return "https" if self._settings.current.tls else "http"

    def give_to(self, uid: int, gid: int) -> None:
        """Make the user and group that this process will be the owners of its unix sockets. Raises ListenError."""
        for listener in self._listeners:
            listener.give_to(uid, gid)

    def serve(self, routes: Routes) -> None:
        """Start answering; returns at once. Raises OSError where there is no descriptor for the loop."""
        # A client's nonsense is not worth a line, and would be one for everybody who sends some.
        logging.getLogger("tornado.general").setLevel(logging.CRITICAL)
        connections = Connections(most_connections(), self._max_requests, self._clock)
        self._server = _LoopServer(routes, self._listeners, self._settings, connections)
        loop = asyncio.new_event_loop()  # here: what fails in the thread would leave a daemon that never answers
        self._thread = threading.Thread(target=_run, args=(loop, self._server), name="web", daemon=True)
        self._thread.start()
        self._pulse = Pulse(loop)
        self._settings.follow()

    def use(self, routes: Routes) -> None:
        """Answer by other routes from the next request on."""
        if self._server:
            self._server.routes = routes

    def responds(self) -> bool:
        """Whether it could answer, unless it has not begun to. For one thread, which asks again and again."""
        return self._pulse is None or self._pulse.beats()

    def close(self) -> None:
        """Stop answering and free the addresses. Answers under way have a few seconds to be taken."""
        self._settings.close()
        if self._server and self._thread:
            self._server.stop()
            self._thread.join(_CLOSE_SECONDS + 2)
            self._thread = None
        for listener in self._listeners:
            listener.close()
        self._listeners = []


def _run(loop: asyncio.AbstractEventLoop, server: _LoopServer) -> None:
    """What asyncio.run() does, in a loop that is there already."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(server.run())
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class _LoopServer(httputil.HTTPServerConnectionDelegate):
    """What runs in the loop's thread; only stop() is called from others."""

    def __init__(
        self, routes: Routes, listeners: Sequence[Listener], settings: Watched, connections: Connections
    ) -> None:
        self.routes = routes
        self.pool: Executor = ThreadPoolExecutor(_THREADS, "page")
        self._listeners = [listener.socket for listener in listeners]
        self._settings = settings
        self._passwords = Passwords()
        self._connections = connections
        self._say_again = 0.0
        self._stopping = threading.Event()
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Have run() return; thread-safe."""
        self._stopping.set()
        if self._loop and self._wake:
            with contextlib.suppress(RuntimeError):  # it has returned already
                self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Answer until stop()."""
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(_report)
        self._http = HTTPServer(
            self,
            chunk_size=READ_CHUNK,
            max_header_size=MAX_HEADER,
            max_body_size=MAX_BODY,
            body_timeout=HEADER_SECONDS,
            idle_connection_timeout=IDLE_SECONDS + HEADER_SECONDS,  # connections.py is stricter, and tells them apart
        )
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)
        while not self._stopping.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _SWEEP_SECONDS if len(self._connections) else None)
            try:
                self._connections.close_overdue()
            except Exception as error:  # a defect of ours: scrapes go on, and the log says why
                event(log, "error", "connections could not be looked through", err=error)
            if not self._stopping.is_set():
                self._wake.clear()
        await self._finish()

    async def _finish(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
        until = time.monotonic() + _CLOSE_SECONDS
        while self._connections.busy and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for stream in self._connections:
            stream.close()
        await asyncio.sleep(0)  # what waits for them ends now
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._passwords.close()

    # --- connections ---

    def _accept(self, listener: socket.socket) -> None:
        """Take what has come, all of it before any of it costs work: where there is no room the oldest goes first."""
        come: deque[tuple[socket.socket, Any]] = deque()
        for _ in range(_ACCEPTS):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                break
            except OSError as error:  # out of descriptors or memory
                self._say_full(error.strerror or str(error))
                if not self._connections.make_room():
                    self._pause(listener)
                break
            if len(self._connections) + len(come) >= self._connections.most:
                self._say_full(f"{self._connections.most} connections")
                if come and not self._connections.any_new:
                    come.popleft()[0].close()
                elif not self._connections.make_room():
                    connection.close()
                    continue
            come.append((connection, address))
        for connection, address in come:
            self._take(connection, address)

    def _say_full(self, why: str) -> None:
        now = time.monotonic()
        if now >= self._say_again:
            self._say_again = now + _SAY_SECONDS
            event(log, "warn", "so many connections that new ones close the oldest idle ones", limit=why)

    def _pause(self, listener: socket.socket) -> None:
        """Look away for a moment: the socket stays readable, and the loop would spin."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)

        def resume() -> None:
            if not self._stopping.is_set():
                loop.add_reader(listener, self._accept, listener)

        loop.call_later(_PAUSE_SECONDS, resume)

    def _take(self, connection: socket.socket, address: Any) -> None:
        first = not len(self._connections)
        settings = self._settings.current
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _LOWAT)
            connection.setblocking(False)
            if settings.tls:
                connection = settings.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # it has gone again
            connection.close()
            return
        stream = (
            TimedTlsStream(connection, self._connections)
            if settings.tls
            else TimedStream(connection, self._connections)
        )
        self._connections.add(stream)
        if first and self._wake:
            self._wake.set()  # there is something to sweep now
        if isinstance(stream, TimedTlsStream):
            task = asyncio.get_running_loop().create_task(self._shake_hands(stream, address, settings.client_sans))
            task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        else:
            self._http.handle_stream(stream, address)

    async def _shake_hands(self, stream: TimedTlsStream, address: Any, sans: frozenset[str]) -> None:
        try:
            await stream.wait_for_handshake()
        except Exception:  # the client's: what it sends instead of a handshake can be anything
            stream.close()
            return
        if sans and not tls.names(stream.socket.getpeercert() or {}) & sans:
            stream.close()
            return
        self._http.handle_stream(stream, address)

    def start_request(
        self,
        server_conn: object,  # noqa: ARG002 - tornado's interface
        request_conn: httputil.HTTPConnection,
    ) -> Exchange:
        """Hand tornado the exchange that takes the next request of a connection."""
        assert isinstance(request_conn, HTTP1Connection)
        stream = request_conn.stream
        assert isinstance(stream, TimedStream)
        peer = getattr(request_conn.context, "remote_ip", "")
        return Exchange(self, request_conn, stream, peer)

    # --- what an exchange asks ---

    @property
    def headers(self) -> Iterable[tuple[str, str]]:
        """What the operator adds to every answer."""
        return self._settings.current.headers

    async def refused(self, authorization: str, peer: str) -> Answer | None:
        """The answer to somebody who may not ask, else None."""
        settings = self._settings.current
        if settings.bucket and not settings.bucket.take(time.monotonic()):
            return text(429)
        try:
            if not settings.users or await self._passwords.allowed(settings.users, authorization, peer):
                return None
        except CrowdedError:
            return text(429)
        return text(401, "", ("WWW-Authenticate", 'Basic realm="kvm-exit-exporter", charset="UTF-8"'))

    def admit(self, stream: TimedStream, peer: str) -> bool:
        """Count a scrape in flight; False where there are too many."""
        return self._connections.admit(stream, peer)

    def leave(self, stream: TimedStream) -> None:
        """A scrape admitted before is over."""
        self._connections.leave(stream)


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no code of ours caught; a connection that broke is none of it."""
    error = context.get("exception")
    level = "debug" if isinstance(error, OSError) else "error"
    fields = {"err": error} if error else {}
    event(log, level, str(context.get("message", "an error in the web server")), **fields)
