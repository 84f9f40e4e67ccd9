"""Connections that record when they last made progress. connections.py closes those that wait for too long.

These are tornado's streams, with the hooks that BaseIOStream documents for subclasses: read_from_fd, write_to_fd,
close_fd.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Protocol

from tornado.iostream import IOStream, SSLIOStream, StreamClosedError, UnsatisfiableReadError

from exporter.web.counts import Counts
from exporter.web.response import REASON_PHRASES
from exporter.web.syntax import is_head

READ_CHUNK = 1 << 14
_MAX_BUFFER = 1 << 18
_MAX_DRAIN = 1 << 18
_HALF_CLOSE_SECONDS = 1.0
"""A client that closes its sending half within this time of its request still waits for the response, as `nc -N` does.

A client that closes its sending half later counts as disconnected.
"""


class StreamEvents(Protocol):
    """Receives the events of each connection."""

    counts: Counts

    @property
    def clock(self) -> Callable[[], float]:
        """The monotonic clock, in seconds."""

    def body_awaited(self, stream: TimedStream) -> None:
        """The header of a request has arrived, and its body has not."""

    def request_began(self, stream: TimedStream) -> None:
        """A whole request has arrived."""

    def request_ended(self, stream: TimedStream) -> None:
        """The response has been sent."""

    def closed(self, stream: TimedStream) -> None:
        """The connection is closed."""


class TimedStream(IOStream):
    """A connection without TLS. All times are of the monotonic clock, in seconds."""

    def __init__(self, connection: socket.socket, events: StreamEvents) -> None:
        super().__init__(connection, max_buffer_size=_MAX_BUFFER, read_chunk_size=READ_CHUNK)
        self._events = events
        self._clock = events.clock
        self.counts = events.counts
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is closed."""
        self.accepted_at = self._clock()
        self.busy_since: float | None = None
        """When the whole current request had arrived; None without such a request."""
        self.idle_since = self.accepted_at
        self.receiving_since: float | None = None
        """When the first byte of an incomplete request arrived.

        A byte that arrived together with the previous request is not noticed. The connection then counts as idle.
        """
        self.progress_at = self.accepted_at
        """When the client last read a byte of a response."""
        self._input_ended_at: float | None = None
        """When the end of the client's input was first noticed: the client has closed its sending half."""

    def await_body(self) -> None:
        """Record that the header of a request has arrived, and that its body has not."""
        if self.receiving_since is None:
            self.receiving_since = self._clock()
        if not self.closed():
            self._events.body_awaited(self)

    def begin_request(self) -> None:
        """Record that a whole request has arrived. The connection may be closed by now."""
        self.progress_at = self.busy_since = self._clock()
        self.receiving_since = None
        if not self.closed():
            self._events.request_began(self)

    def end_request(self) -> None:
        """Record that the response has been sent. The next request may arrive."""
        self.busy_since = None
        self.idle_since = self._clock()
        if not self.closed():
            self._events.request_ended(self)

    def stalled_seconds(self, now: float) -> float:
        """Return how long the client has read nothing of a response, in seconds; 0 if there is nothing to send."""
        return now - self.progress_at if self.busy_since is not None and self.writing() else 0.0

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """Read the head of a request. If it is not valid, respond with status 400 and close.

        tornado calls this only for heads. Raises StreamClosedError.
        """
        head = await super().read_until_regex(regex, max_bytes)
        if not is_head(head):
            self.refuse(400)
            raise StreamClosedError
        return head

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read, and record when a request begins. Complete requests get a response even after the end of input."""
        count = super().read_from_fd(buf)
        if count == 0 and self._open_after_end_of_input():
            return None  # this means "no data yet" to tornado
        if count and self.receiving_since is None and self.busy_since is None:
            self.receiving_since = self._clock()
        return count

    def _open_after_end_of_input(self) -> bool:
        """Return whether the connection stays open although the client has closed its sending half."""
        first_time = self._input_ended_at is None
        if self._input_ended_at is None:
            self._input_ended_at = self._clock()
        has_request_bytes = self.receiving_since is not None
        if self.reading():
            # tornado parses these bytes next. A second call means that the request is incomplete.
            return first_time and has_request_bytes
        if self.busy_since is None:
            # If there are bytes of a request, tornado has a complete part of it, and handles that part next.
            if not has_request_bytes:
                return False
        elif self._input_ended_at - self.busy_since > _HALF_CLOSE_SECONDS:
            return False
        # The socket stays readable after the end of input. Stop listening for input, or the loop would spin.
        self.io_loop.update_handler(self.fileno(), self.io_loop.ERROR | (self.io_loop.WRITE * self.writing()))
        return True

    def write_to_fd(self, data: memoryview) -> int:
        """Send data, and record how much of it the client has taken."""
        count = super().write_to_fd(data)
        if count:
            self.progress_at = self._clock()
        return count

    def write(self, data: bytes | memoryview) -> asyncio.Future[None]:
        """Write. Time without data to send does not count as stalled."""
        if not self.writing():
            self.progress_at = self._clock()
        return super().write(data)

    def close(self, exc_info: Any = False) -> None:
        """Close the connection. If a header was too large, first respond with status 431."""
        if isinstance(exc_info, UnsatisfiableReadError) and not self.closed():
            self._send_error(431)
        super().close(exc_info)

    @property
    def local_address(self) -> str:
        """The server's address of this connection; "" for a unix socket."""
        name = None if self.closed() else self.socket.getsockname()
        return name[0] if isinstance(name, tuple) else ""

    def close_for(self, cause: str) -> None:
        """Close the connection, and count the cause, one of CAUSES."""
        if not self.closed():
            self.counts.closed[cause] += 1
            self.close()

    def refuse(self, status: int, text: str = "") -> None:
        """Respond with an error before the request is read to its end, and close. `text` is one line."""
        if not self.closed():
            self._send_error(status, text)
            self.close()

    def _send_error(self, status: int, text: str = "") -> None:
        self.counts.responses[status] += 1
        phrase = REASON_PHRASES[status]
        body = f"{text or phrase}\n"
        head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
        with contextlib.suppress(OSError):
            self.socket.send(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            self.socket.shutdown(socket.SHUT_WR)
            # Read what has arrived: closing a socket with unread bytes resets it, and the client may lose the response.
            drained = 0
            while drained < _MAX_DRAIN and (part := self.socket.recv(1 << 16)):
                drained += len(part)

    def close_fd(self) -> None:
        """Close the socket, once. This wakes all tasks that wait for the connection."""
        super().close_fd()
        if not self.closing.done():
            self.closing.set_result(None)
        self._events.closed(self)


class TimedTlsStream(TimedStream, SSLIOStream):
    """A connection with TLS. Its socket is an SSLSocket before the handshake."""
