"""Connections that know since when they wait, and for what. server.py closes those that wait too long.

tornado's streams, with the hooks that BaseIOStream documents for subclasses: read_from_fd, write_to_fd, close_fd.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Protocol

from tornado.iostream import IOStream, SSLIOStream, UnsatisfiableReadError

READ_CHUNK = 1 << 14
_MAX_BUFFER = 1 << 18
_DRAIN = 1 << 18
_READS_ON_SECONDS = 1.0
"""Who sends no more so soon after a request wants its answer, as `nc -N` does; later, it has given up and left."""


class StreamEvents(Protocol):
    """Is told what a connection does."""

    @property
    def clock(self) -> Callable[[], float]:
        """The monotonic clock, in seconds."""

    def began(self, stream: TimedStream) -> None:
        """A request has come."""

    def ended(self, stream: TimedStream) -> None:
        """Its answer has gone."""

    def closed(self, stream: TimedStream) -> None:
        """The connection is no more."""


class TimedStream(IOStream):
    """A connection without TLS. All times are of the monotonic clock, in seconds."""

    def __init__(self, connection: socket.socket, table: StreamEvents) -> None:
        super().__init__(connection, max_buffer_size=_MAX_BUFFER, read_chunk_size=READ_CHUNK)
        self._clock = table.clock
        self.accepted = self._clock()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.busy_since: float | None = None
        """Since when a request is being answered."""
        self.idle_since = self.accepted
        self.heard: float | None = None
        """When the first byte came of a request whose header is not whole yet; one that came along with the request
        before it is not seen, and that connection counts as idle."""
        self.moved = self.accepted
        """When the client last took a byte of an answer."""
        self._sent_all: float | None = None
        """When the client was first seen to send no more."""
        self._table = table

    def begin(self) -> None:
        """A request's header has come; maybe with the last bytes before the end of the connection."""
        self.moved = self.busy_since = self._clock()
        self.heard = None
        if not self.closed():
            self._table.began(self)

    def end(self) -> None:
        """Its answer has gone; the next one may come."""
        self.busy_since = None
        self.idle_since = self._clock()
        if not self.closed():
            self._table.ended(self)

    def stands(self, now: float) -> float:
        """For how long there have been bytes to send that the client does not take; 0 if there are none."""
        return now - self.moved if self.busy_since is not None and self.writing() else 0.0

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read, and note when a header begins. What a client sends may end before it has all it asked for."""
        count = super().read_from_fd(buf)
        if count == 0 and self._reads_on():
            return None  # as if there were nothing yet
        if count and self.heard is None and self.busy_since is None:
            self.heard = self._clock()
        return count

    def _reads_on(self) -> bool:
        """At the end of what the client sends: whether the connection goes on all the same."""
        first = self._sent_all is None
        if self._sent_all is None:
            self._sent_all = self._clock()
        header = self.heard is not None
        if self.reading():
            return first and header  # tornado looks whether it is whole; here again, it is not
        if self.busy_since is None:
            if not header:  # else it is whole, and on its way to begin()
                return False
        elif self._sent_all - self.busy_since > _READS_ON_SECONDS:
            return False
        # The end can be read over and over again: listen for it no more, or the loop would spin.
        self.io_loop.update_handler(self.fileno(), self.io_loop.ERROR | (self.io_loop.WRITE * self.writing()))
        return True

    def write_to_fd(self, data: memoryview) -> int:
        """Write, and note that something moves."""
        count = super().write_to_fd(data)
        if count:
            self.moved = self._clock()
        return count

    def write(self, data: bytes | memoryview) -> asyncio.Future[None]:
        """Write; what is new has not stood yet."""
        if not self.writing():
            self.moved = self._clock()
        return super().write(data)

    def close(self, exc_info: Any = False) -> None:
        """Close; a header that is too large is answered first."""
        if isinstance(exc_info, UnsatisfiableReadError) and not self.closed():
            self._say(431, "Request Header Fields Too Large")
        super().close(exc_info)

    def refuse(self, status: int, reason: str) -> None:
        """Answer in the midst of a request, which is not read any further, and close."""
        if not self.closed():
            self._say(status, reason)
            self.close()

    def _say(self, status: int, reason: str) -> None:
        body = f"{reason}\n"
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
        with contextlib.suppress(OSError):
            self.socket.send(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            self.socket.shutdown(socket.SHUT_WR)
            # Take what has come meanwhile: bytes left unread would reset the connection under the answer.
            taken = 0
            while taken < _DRAIN and (part := self.socket.recv(1 << 16)):
                taken += len(part)

    def close_fd(self) -> None:
        """Close the socket, once; everybody who waits for this connection hears of it."""
        super().close_fd()
        if not self.gone.done():
            self.gone.set_result(None)
        self._table.closed(self)


class TimedTlsStream(TimedStream, SSLIOStream):
    """A connection with TLS; its socket is an SSLSocket whose handshake is still to come."""
