"""Read the present state of a server, so that a test can wait for a state instead of a time."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from exporter.web.auth import Passwords
from exporter.web.connections import Connections
from exporter.web.server import WebServer
from exporter.web.stream import TimedStream


class Clock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def held(web: WebServer) -> Connections:
    """Return the server's connections."""
    assert web._server
    return web._server._connections


def passwords(web: WebServer) -> Passwords:
    """Return the server's password check."""
    assert web._server
    return web._server._passwords


def only(web: WebServer) -> TimedStream:
    """Wait until the server has exactly one connection. Return the server's end of this connection."""
    until(lambda: len(held(web)) == 1)
    (stream,) = held(web)
    return stream


def scrapes(web: WebServer) -> int:
    """Return the number of scrapes in progress."""
    assert web._server
    return len(web._server.scrapes)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until true() holds. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def idle(stream: TimedStream) -> bool:
    """Return whether the connection is between two requests."""
    return stream.idle_since > stream.accepted_at and stream.busy_since is None


def writing(stream: TimedStream) -> bool:
    """Return whether the server is writing an answer."""
    return stream.busy_since is not None and stream.writing()


def stuck(stream: TimedStream) -> bool:
    """Return whether the client reads nothing: the kernel's buffers stay full even after delayed acknowledgements."""
    return writing(stream) and not select.select([], [stream.socket], [], 0.1)[1]
