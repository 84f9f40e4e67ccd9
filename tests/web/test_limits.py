"""What a client may take: bytes, time, connections, scrapes."""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from exporter.exposition.page import Page
from exporter.web import application, connections, server, stream
from tests.web.client import BODY, all_of, app, ask, connect
from tests.web.conftest import Serve

BIG = 400_009  # times BODY: 8 MB, more than the buffers of two sockets take


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nCookie: " + b"x" * 1_000_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nCookie: " + b"x" * (server.MAX_HEADER - 28) + b"\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nCookie: " + b"x" * (server.MAX_HEADER - 27) + b"\r\n\r\n", 431),
        (b"POST /-/reload HTTP/1.1\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65536, 403),
        (b"POST /-/reload HTTP/1.1\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65537, 413),
        (b"POST /-/reload HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 413),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\nx", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 411),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"\0\r\n\r\n", 400),
        (b"GET http://host.example/-/healthy?x#y HTTP/1.0\r\n\r\n", 200),
        (b"GET /%2d/%68ealthy HTTP/1.0\r\n\r\n", 200),
        (b"GET /-/../metrics HTTP/1.0\r\n\r\n", 404),
        (b"GET http://[ HTTP/1.0\r\n\r\n", 404),
        (b"GET http://host.example HTTP/1.0\r\n\r\n", 200),
        (b"OPTIONS * HTTP/1.0\r\n\r\n", 404),
    ],
)
def test_what_is_refused(serve: Serve, caplog: pytest.LogCaptureFixture, sent: bytes, status: int) -> None:
    web = serve()
    with connect(web) as raw:
        with contextlib.suppress(ConnectionError):
            raw.sendall(sent)
        if status in (200, 403):
            assert raw.recv(1 << 16).startswith(b"HTTP/1.1 %d " % status)
        else:
            # What is sent after the refusal may reset the connection before the answer is read, if it is large.
            answer = all_of(raw) if b"HTTP/1.0" not in sent else raw.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert ask(web).body == BODY
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_one_connection_carries_many_scrapes(serve: Serve) -> None:
    web = serve()
    connection = http.client.HTTPConnection(web.addresses[0], timeout=20)
    for _ in range(101):
        connection.request("GET", "/metrics")
        assert connection.getresponse().read() == BODY
    connection.close()


def test_requests_in_a_row_are_answered_in_that_order(serve: Serve) -> None:
    web = serve(application=app(1009))
    with connect(web) as raw:
        raw.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 22 + b"GET /-/healthy HTTP/1.0\r\n\r\n")
        answer = all_of(raw)
    assert answer.count(BODY) == 22 * 1009
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 23
    assert answer.endswith(b"\r\n\r\nHealthy\n")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second's patience in place of minutes."""
    for name in ("HEADER_SECONDS", "IDLE_SECONDS", "WRITE_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(connections, name, 60.0)
    monkeypatch.setattr(server, "_SWEEP_SECONDS", 0.05)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("limit", "sent", "then"),
    [
        ("HEADER_SECONDS", b"", b""),
        ("HEADER_SECONDS", b"GET /met", b""),
        ("HEADER_SECONDS", b"GET /-/healthy HTTP/1.1\r\n\r\n", b"GET /met"),
        ("IDLE_SECONDS", b"GET /-/healthy HTTP/1.1\r\n\r\n", b""),
        ("WRITE_SECONDS", b"GET /metrics HTTP/1.1\r\n\r\n", b""),
        ("ANSWER_SECONDS", b"GET /metrics HTTP/1.1\r\n\r\n", b""),
    ],
)
def test_who_keeps_us_waiting_is_dropped(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, limit: str, sent: bytes, then: bytes
) -> None:
    web = serve(application=app(BIG))
    monkeypatch.setattr(connections, limit, 0.5)
    start = time.monotonic()
    with connect(web) as raw:
        raw.sendall(sent)
        time.sleep(0.2)
        raw.sendall(then)
        time.sleep(1)  # so that a reader stands still
        received = all_of(raw)
        assert 0.4 < time.monotonic() - start < 5
        assert len(received) < BIG * len(BODY)
    monkeypatch.setattr(connections, limit, 60.0)
    assert len(ask(web).body) == BIG * len(BODY)


@pytest.mark.usefixtures("hurried")
def test_a_header_in_drops_is_cut_off_and_a_steady_reader_is_not(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    web = serve(application=app(BIG))
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.7)
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.7)
    start = time.monotonic()
    with connect(web) as raw, contextlib.suppress(ConnectionError):
        while time.monotonic() - start < 5:
            raw.sendall(b"x")
            time.sleep(0.05)
    assert time.monotonic() - start < 5
    with connect(web) as raw:
        raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        read = 0
        for _ in range(20):  # two seconds, in small sips, and then the rest
            read += len(raw.recv(1 << 17))
            time.sleep(0.1)
        assert read + len(all_of(raw)) > BIG * len(BODY)


class Gate:
    """A page that is made when the gate opens."""

    def __init__(self) -> None:
        self.asked, self.open = threading.Event(), threading.Event()
        self.made = 0

    def render(self, *_: str) -> Page:
        self.asked.set()
        assert self.open.wait(20)
        self.made += 1
        return Page([("Content-Type", "text/plain")], [BODY])


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


def test_scrapes_beyond_the_limit(serve: Serve, gate: Gate) -> None:
    web = serve(application=application(gate.render, "/metrics"), max_requests=7)
    waiting = [connect(web) for _ in range(7)]
    for raw in waiting:
        raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    deadline = time.monotonic() + 10
    while (got := ask(web, "/-/healthy")).status == 200 and time.monotonic() < deadline:
        with connect(web) as eighth:
            eighth.settimeout(0.2)
            eighth.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            with contextlib.suppress(TimeoutError):
                refused = eighth.recv(1 << 16)
                break
    assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 1\r\n" in refused
    assert got.body == b"Healthy\n"
    gate.open.set()
    assert [all_of(raw)[-len(BODY) :] for raw in waiting] == [BODY] * 7
    for raw in waiting:
        raw.close()
    assert ask(web).body == BODY


def spins() -> bool:
    """Whether this process uses half a CPU."""
    used = time.process_time()
    time.sleep(0.4)
    return time.process_time() - used > 0.2


@pytest.mark.parametrize("pieces", [[b"GET /metrics HTTP/1.1\r\n\r\n"], [b"GET /met", b"rics HTTP/1.1\r\n\r\n"]])
def test_who_sends_no_more_is_answered(serve: Serve, gate: Gate, pieces: list[bytes]) -> None:
    web = serve(application=application(gate.render, "/metrics"))
    with connect(web) as raw:
        for piece in pieces:
            raw.sendall(piece)
        raw.shutdown(socket.SHUT_WR)
        assert gate.asked.wait(20)
        for _ in range(3):  # the loop has seen the end by the second of these at the latest
            assert ask(web, "/-/healthy").status == 200
        assert not spins()
        gate.open.set()
        assert all_of(raw).endswith(b"\r\n\r\n" + BODY)


@pytest.mark.parametrize("rest", [b"", b"GET /met"])
def test_all_that_was_asked_for_before_the_end_is_answered(serve: Serve, rest: bytes) -> None:
    """With pages too large for the buffers."""
    web = serve(application=app(BIG))
    with connect(web) as raw:
        raw.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 2 + rest)
        raw.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        assert not spins()
        answer = all_of(raw)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answer.count(BODY) == 2 * BIG


def test_a_body_that_ends_too_early_is_not_waited_for(serve: Serve) -> None:
    web = serve()
    with connect(web) as raw:
        raw.sendall(b"POST /-/reload HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcd")
        raw.shutdown(socket.SHUT_WR)
        assert all_of(raw) == b""


def test_nothing_is_made_for_those_who_left(serve: Serve, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four pages at a time; of 23 that wait for a thread nobody wants one any more."""
    web = serve(application=application(gate.render, "/metrics"))
    asked = [connect(web) for _ in range(27)]
    for raw in asked:
        raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    time.sleep(0.3)
    monkeypatch.setattr(stream, "_READS_ON_SECONDS", 0.0)
    for raw in asked:
        raw.close()
    time.sleep(0.3)
    gate.open.set()
    assert ask(web).body == BODY
    assert gate.made == 4 + 1


def test_a_reader_that_stands_still_gives_way(serve: Serve) -> None:
    web = serve(application=app(BIG), max_requests=3)
    standing = [connect(web) for _ in range(3)]
    for raw in standing:
        raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        time.sleep(0.1)
    assert ask(web).status == 503
    time.sleep(1.2)
    assert len(ask(web).body) == BIG * len(BODY)
    # The one that stood for longest went; the others are as they were.
    assert [len(all_of(raw)) > BIG * len(BODY) for raw in standing] == [False, True, True]
    for raw in standing:
        raw.close()


def test_the_greediest_address_gives_way(serve: Serve) -> None:
    """Who asks often holds up his own scrapes, and not those of another address."""
    web = serve(application=app(BIG), max_requests=3)
    greedy = [connect(web, "127.0.0.2") for _ in range(3)]
    for raw in greedy:
        raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    time.sleep(0.1)
    with connect(web, "127.0.0.2") as fourth:
        fourth.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert all_of(fourth).startswith(b"HTTP/1.1 503 ")
    assert len(ask(web).body) == BIG * len(BODY)
    assert sum(len(all_of(raw)) > BIG * len(BODY) for raw in greedy) == 2
    for raw in greedy:
        raw.close()


def test_the_oldest_idle_connection_gives_way_to_a_new_one(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "most_connections", lambda: 23)
    web = serve()
    scraper = http.client.HTTPConnection(web.addresses[0], timeout=20)
    scraper.request("GET", "/metrics")
    assert scraper.getresponse().read() == BODY
    idle = [connect(web) for _ in range(101)]
    assert ask(web).body == BODY
    closed = 0
    for raw in idle:
        raw.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            closed += raw.recv(1) == b""
    assert closed == 101 + 1 + 1 - 23
    # Whoever has asked for something stays as long as there are others.
    scraper.request("GET", "/metrics")
    assert scraper.getresponse().read() == BODY
    scraper.close()
    for raw in idle:
        raw.close()


def test_the_limit_leaves_descriptors_for_the_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((1024, 896), (256, 128), (64, 16), (1 << 20, 1000), (-1, 1000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert connections.most_connections() == most


def test_reload(serve: Serve) -> None:
    calls: list[int] = []
    wrong = ["", "config.yaml:3: linger: has no unit"]

    def reload() -> str:
        calls.append(1)
        return wrong[len(calls) - 1]

    web = serve(application=application(lambda *_: Page([], []), "/metrics", reload=reload))
    assert ask(web, "/-/reload").status == 405
    assert not calls
    assert ask(web, "/-/reload", method="POST").status == 200
    got = ask(web, "/-/reload", method="PUT")
    assert (got.status, got.body) == (500, b"failed to reload config: config.yaml:3: linger: has no unit\n")
    got = ask(serve(), "/-/reload", method="POST")
    assert (got.status, got.body) == (403, b"Lifecycle API is not enabled.\n")


def test_answers_under_way_are_finished(serve: Serve, gate: Gate) -> None:
    web = serve(application=application(gate.render, "/metrics"))
    with connect(web) as raw, connect(web) as idle:
        raw.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        time.sleep(0.2)
        threading.Timer(0.3, gate.open.set).start()
        web.close()
        assert all_of(raw).endswith(BODY)
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(raw.getpeername(), timeout=5)
