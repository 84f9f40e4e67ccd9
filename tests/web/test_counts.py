"""Each response is counted by its status, and each connection that the server closes by its cause."""

from __future__ import annotations

import pytest

from exporter.web import connections, loop, server
from exporter.web import scrapes as scrapes_module
from exporter.web.counts import CAUSES
from exporter.web.response import REASON_PHRASES
from exporter.web.server import WebServer
from tests.web.client import BODY, all_of, app, ask, connect
from tests.web.conftest import Serve
from tests.web.inside import Clock, held, idle, only, stuck, until

BIG = 400_009
GET = b"GET /metrics HTTP/1.0\r\n\r\n"


def responses(web: WebServer) -> dict[int, int]:
    """Return the counts of responses that are not 0."""
    return {status: count for status, count in web.connections.counts.responses.items() if count}


def closed(web: WebServer) -> dict[str, int]:
    """Return the counts of closed connections that are not 0."""
    return {cause: count for cause, count in web.connections.counts.closed.items() if count}


def test_every_label_is_there_from_the_beginning(serve: Serve) -> None:
    counts = serve().connections.counts
    assert counts.responses == dict.fromkeys(REASON_PHRASES, 0)
    assert counts.closed == dict.fromkeys(CAUSES, 0)


def test_responses_are_counted_by_status(serve: Serve) -> None:
    web = serve()
    for path, count in (("/metrics", 7), ("/-/healthy", 5), ("/absent", 3)):
        for _ in range(count):
            ask(web, path)
    for sent, count in (
        (b"POST /metrics HTTP/1.0\r\n\r\n", 2),
        (b"G(T / HTTP/1.0\r\n\r\n", 11),
        (b"GET / HTTP/9.9\r\n\r\n", 13),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 17),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 19),
        (b"GET / HTTP/1.0\r\nX: " + b"x" * loop.MAX_HEADER, 23),
    ):
        for _ in range(count):
            with connect(web) as raw:
                raw.sendall(sent)
                all_of(raw)
    assert responses(web) == {200: 12, 404: 3, 405: 2, 400: 24, 421: 17, 411: 19, 431: 23}
    assert closed(web) == {}


def test_time_limits_are_counted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SWEEP_SECONDS", 0.02)
    clock = Clock()
    web = serve(routes=app(BIG), clock=clock)
    for sent, ready, seconds in (
        (b"GET /met", lambda stream: stream.receiving_since is not None, connections.REQUEST_SECONDS),
        (b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n", idle, connections.IDLE_SECONDS),
        (GET, stuck, connections.WRITE_SECONDS),
    ):
        with connect(web) as raw:
            stream = only(web)
            clock.now += 1
            raw.sendall(sent)
            until(lambda stream=stream, ready=ready: ready(stream))  # type: ignore[misc]
            clock.now += seconds + 1
            until(stream.closed)
            until(lambda: len(held(web)) == 0)
    assert closed(web) == {"request_timeout": 1, "idle_timeout": 1, "response_timeout": 1}


def test_limits_of_places_are_counted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "max_connections", lambda: 7)
    web = serve(routes=app(BIG), max_requests=3, clock=Clock())
    silent = [connect(web) for _ in range(7)]
    until(lambda: len(held(web)) == 7)
    assert web.connections.by_state == {"new": 7, "no_body": 0, "idle": 0, "busy": 0}
    greedy = [connect(web, "127.0.0.2") for _ in range(3)]
    for number, raw in enumerate(greedy, 1):
        raw.sendall(GET)
        until(lambda number=number: sum(map(stuck, held(web))) == number)  # type: ignore[misc]
    assert web.connections.by_state == {"new": 4, "no_body": 0, "idle": 0, "busy": 3}
    assert closed(web) == {"connection_limit": 3}
    assert len(ask(web).body) == BIG * len(BODY)
    assert closed(web) == {"connection_limit": 4, "scrape_limit": 1}
    for raw in (*silent, *greedy):
        raw.close()


def test_the_limit_of_bodies_is_counted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes_module, "MAX_BODIES", BIG * len(BODY))
    web = serve(routes=app(BIG), clock=Clock())
    with connect(web, "127.0.0.2") as raw:
        raw.sendall(GET)
        until(lambda: sum(map(stuck, held(web))) == 1)
        assert len(ask(web).body) == BIG * len(BODY)
        assert len(all_of(raw)) < BIG * len(BODY)
    assert closed(web) == {"body_limit": 1}
