"""What a server holds at the moment, so that a test waits for a state and not for a time."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from exporter.web.auth import Passwords
from exporter.web.connections import Connections
from exporter.web.server import WebServer
from exporter.web.stream import TimedStream


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def held(web: WebServer) -> Connections:
    """Its connections."""
    assert web._server
    return web._server._connections


def passwords(web: WebServer) -> Passwords:
    """What checks them."""
    assert web._server
    return web._server._passwords


def only(web: WebServer) -> TimedStream:
    """The server's end of the one connection there is."""
    until(lambda: len(held(web)) == 1)
    (stream,) = held(web)
    return stream


def scrapes(web: WebServer) -> int:
    """How many are in flight."""
    return len(held(web)._scrapes)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a state, longer than any machine should take. Raises AssertionError."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def idle(stream: TimedStream) -> bool:
    """Between two requests."""
    return stream.idle_since > stream.accepted_at and stream.busy_since is None


def writing(stream: TimedStream) -> bool:
    """In the midst of an answer."""
    return stream.busy_since is not None and stream.writing()


def stuck(stream: TimedStream) -> bool:
    """The client takes nothing, and the kernel no more, not even once delayed acknowledgements have come."""
    return writing(stream) and not select.select([], [stream.socket], [], 0.1)[1]
