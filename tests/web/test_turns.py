"""Requests that wait share a body, and clients take turns: the work is counted, never the time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from exporter.metrics.exposition.page import MetricsPage
from exporter.service.routes import routes
from exporter.web import scrapes as scrapes_module
from tests.web.client import BODY, all_of, ask, connect
from tests.web.conftest import Serve
from tests.web.inside import Clock, held, scrapes, stuck, until

TEXT, OPENMETRICS, PROTOBUF = (
    "text/plain",
    "application/openmetrics-text; version=1.0.0",
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
)
GREEDY, OTHER, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4"


class Kitchen:
    """Makes pages, each after a permit. A page has the headers of the request that it was made for, and its number."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.made: list[tuple[str, str]] = []

    def render(self, accept: str, accept_encoding: str) -> MetricsPage:
        self.made.append((accept, accept_encoding))
        number = len(self.made)
        assert self.permits.acquire(timeout=60)
        return MetricsPage([("Content-Type", "text/plain")], [b"page %d\n" % number])

    def permit(self, pages: int) -> None:
        for _ in range(pages):
            self.permits.release()


@pytest.fixture
def kitchen() -> Iterator[Kitchen]:
    made = Kitchen()
    yield made
    made.permit(100)


def request(raw: socket.socket, accept: str = TEXT, encoding: str = "", path: str = "/metrics") -> None:
    head = f"GET {path} HTTP/1.0\r\nAccept: {accept}\r\nAccept-Encoding: {encoding}\r\n\r\n"
    raw.sendall(head.encode())


def body(raw: socket.socket) -> bytes:
    answer = all_of(raw)
    raw.close()
    return answer.partition(b"\r\n\r\n")[2]


def test_requests_that_wait_share_one_page(serve: Serve, kitchen: Kitchen) -> None:
    web = serve(routes=routes(kitchen.render, "/metrics"))
    first = connect(web)
    request(first)
    until(lambda: len(kitchen.made) == 1)
    waiting = [connect(web, (GREEDY, OTHER, THIRD)[number % 3]) for number in range(23)]
    for raw in waiting:
        request(raw)
    until(lambda: scrapes(web) == 24)
    kitchen.permit(2)
    # A page that was begun before a request arrived is too old for it.
    assert body(first) == b"page 1\n"
    assert [body(raw) for raw in waiting] == [b"page 2\n"] * 23
    assert len(kitchen.made) == 2


def test_only_requests_of_one_shape_share_a_page(serve: Serve, kitchen: Kitchen) -> None:
    """A shape is everything that a page depends on: the format and the encoding, and not the text of the headers."""
    web = serve(routes=routes(kitchen.render, "/metrics"))
    first = connect(web)
    request(first)
    until(lambda: len(kitchen.made) == 1)
    shapes = [(accept, encoding) for accept in (TEXT, OPENMETRICS, PROTOBUF) for encoding in ("identity", "gzip")]
    others = [(f"{accept};q=0.7, */*;q=0.1", f"br, {encoding};q=0.3") for accept, encoding in shapes]
    waiting = []
    for accept, encoding in (*shapes, *others, ("x/y", ""), (TEXT, "gzip;q=0")):
        waiting.append(connect(web))
        request(waiting[-1], accept, encoding)
        until(lambda: scrapes(web) == 1 + len(waiting))
    kitchen.permit(1 + 6)
    pages = [body(raw) for raw in waiting]
    assert pages == [b"page %d\n" % (2 + number) for number in (*range(6), *range(6), 0, 0)]
    assert kitchen.made == [(TEXT, ""), *shapes]
    assert body(first) == b"page 1\n"


def test_the_client_whose_last_turn_is_longest_ago_is_next(serve: Serve, kitchen: Kitchen) -> None:
    """One client asks for every shape before two others ask: after the page in work, the others have their turns."""
    web = serve(routes=routes(kitchen.render, "/metrics", lambda: [kitchen.render("vcpus", "").pieces[0]]))
    waiting = []

    def ask_for(source: str, accept: str, encoding: str, path: str = "/metrics") -> None:
        waiting.append(connect(web, source))
        request(waiting[-1], accept, encoding, path)
        until(lambda: scrapes(web) == len(waiting))

    ask_for(OTHER, TEXT, "")
    until(lambda: len(kitchen.made) == 1)
    kitchen.permit(1)
    assert body(waiting.pop()) == b"page 1\n"
    until(lambda: scrapes(web) == 0)
    ask_for(GREEDY, TEXT, "")
    until(lambda: len(kitchen.made) == 2)
    for accept in (TEXT, OPENMETRICS, PROTOBUF):
        ask_for(GREEDY, accept, "")
    ask_for(GREEDY, "", "", "/-/vcpus")
    for accept in (TEXT, OPENMETRICS):
        ask_for(GREEDY, accept, "gzip")
    ask_for(OTHER, PROTOBUF, "gzip")
    ask_for(THIRD, OPENMETRICS, "")
    kitchen.permit(8)
    for raw in waiting:
        assert body(raw).startswith(b"page ")
    assert kitchen.made[2:] == [
        (OPENMETRICS, ""),  # the third client has had no turn yet, and shares this page
        (PROTOBUF, "gzip"),
        (TEXT, ""),
        (PROTOBUF, ""),
        ("vcpus", ""),
        (TEXT, "gzip"),
        (OPENMETRICS, "gzip"),
    ]


def test_a_request_whose_client_has_left_is_no_work(serve: Serve, kitchen: Kitchen) -> None:
    clock = Clock()
    web = serve(routes=routes(kitchen.render, "/metrics"), clock=clock)
    asked = [connect(web) for _ in range(7)]
    for raw, accept in zip(asked, (TEXT, OPENMETRICS, PROTOBUF, TEXT, OPENMETRICS, PROTOBUF, TEXT)):
        request(raw, accept)
        until(lambda: len(kitchen.made) == 1)
    until(lambda: scrapes(web) == 7)
    clock.now += 2  # shortly after a request, a close cannot be told from a half close
    for raw in asked:
        raw.close()
    until(lambda: len(held(web)) == 0 and scrapes(web) == 0)
    kitchen.permit(2)
    assert ask(web).body == b"page 2\n"
    assert len(kitchen.made) == 2


def test_requests_to_reload_that_wait_share_one_reload(serve: Serve) -> None:
    calls, gate = [], threading.Event()

    def reload() -> str:
        calls.append(1)
        assert gate.wait(60)
        return ""

    web = serve(routes=routes(lambda *_: MetricsPage([], []), "/metrics", reload=reload))
    asked = [connect(web) for _ in range(11)]
    for raw in asked:
        raw.sendall(b"POST /-/reload HTTP/1.0\r\n\r\n")
        until(lambda: calls == [1])
    until(lambda: scrapes(web) == 11)
    gate.set()
    assert [body(raw) for raw in asked] == [b"OK\n"] * 11
    assert len(calls) == 2


BIG = 400_009  # copies of BODY: 8 MB, more than the buffers of two sockets hold


@pytest.mark.parametrize(("limit", "closed"), [(3, 0), (2, 1)])
def test_bodies_that_are_sent_have_a_limit(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, limit: int, closed: int
) -> None:
    """Two clients read nothing of two pages. A third page is sent whole, and the limit decides who is closed."""
    monkeypatch.setattr(scrapes_module, "MAX_BODIES", limit * BIG * len(BODY))
    clock = Clock()
    pages = (MetricsPage([("Content-Type", "text/plain")], [BODY] * BIG) for _ in range(3))
    web = serve(routes=routes(lambda *_: next(pages), "/metrics"), clock=clock)
    standing = []
    for source in (GREEDY, OTHER):
        standing.append(connect(web, source))
        request(standing[-1])
        until(lambda: sum(map(stuck, held(web))) == len(standing))
        clock.now += 0.1
    assert len(ask(web).body) == BIG * len(BODY)
    assert [len(body(raw)) < BIG * len(BODY) for raw in standing] == [True] * closed + [False] * (2 - closed)


def test_a_page_that_many_clients_read_counts_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes_module, "MAX_BODIES", 2 * BIG * len(BODY))
    gate = threading.Event()
    calls = []

    page = MetricsPage([("Content-Type", "text/plain")], [BODY] * BIG)

    def shared(*_: str) -> MetricsPage:
        calls.append(1)
        assert gate.wait(60)
        return page

    web = serve(routes=routes(shared, "/metrics"))
    standing = [connect(web) for _ in range(13)]
    for raw in standing:
        request(raw)
        until(lambda: calls == [1])
    until(lambda: scrapes(web) == 13)
    gate.set()
    until(lambda: sum(map(stuck, held(web))) == 13)
    assert [len(body(raw)) for raw in standing] == [BIG * len(BODY)] * 13
    assert len(calls) == 2
