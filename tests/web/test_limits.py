"""Each limit on clients is applied: on bytes, time, connections and scrapes."""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from exporter.metrics.exposition.page import MetricsPage
from exporter.service.routes import routes
from exporter.web import connections, loop, server
from exporter.web.stream import TimedStream
from tests.web.client import BODY, all_of, app, ask, connect
from tests.web.conftest import Serve
from tests.web.inside import Clock, held, idle, only, scrapes, stuck, until, writing

BIG = 400_009  # number of copies of BODY: 8 MB, more than the buffers of two sockets hold


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"x" * 1_000_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"x" * (loop.MAX_HEADER - 45) + b"\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"x" * (loop.MAX_HEADER - 44) + b"\r\n\r\n", 431),
        (b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65536, 403),
        (b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65537, 413),
        (b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx", 413),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 1\r\n\r\nx", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 411),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n", 403),
        (b"PUT /-/reload HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\r\n", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length : 3\r\n\r\nabc", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: a\r\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\nHost: localhost\n\n", 200),
        (b"GET http://x/metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.0\r\nhost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost:\r\n\r\n", 200),
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
def test_malformed_and_large_requests_get_their_status(
    serve: Serve, caplog: pytest.LogCaptureFixture, sent: bytes, status: int
) -> None:
    web = serve()
    with connect(web) as raw:
        with contextlib.suppress(ConnectionError):
            raw.sendall(sent)
        if status in (200, 403):
            assert raw.recv(1 << 16).startswith(b"HTTP/1.1 %d " % status)
        else:
            # After a large request, the server may reset the connection before the client has read the refusal.
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


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    web = serve(routes=app(1009))
    with connect(web) as raw:
        raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 22 + b"GET /-/healthy HTTP/1.0\r\n\r\n")
        answer = all_of(raw)
    assert answer.count(BODY) == 22 * 1009
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 23
    assert answer.endswith(b"\r\n\r\nHealthy\n")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock for the limits. Only the test advances it. The server checks the limits often."""
    monkeypatch.setattr(loop, "_SWEEP_SECONDS", 0.02)
    return Clock()


def new(stream: TimedStream) -> bool:
    return stream.busy_since is None


def heard(stream: TimedStream) -> bool:
    return stream.receiving_since is not None


HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"
NO_BODY = b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcd"


@pytest.mark.parametrize(
    ("limit", "sent", "state"),
    [
        (connections.REQUEST_SECONDS, [b""], new),
        (connections.REQUEST_SECONDS, [b"GET /met"], heard),
        (connections.REQUEST_SECONDS, [HEALTHY, b"GET /met"], heard),
        (connections.REQUEST_SECONDS, [NO_BODY], heard),
        (connections.REQUEST_SECONDS, [HEALTHY, NO_BODY], heard),
        (connections.IDLE_SECONDS, [HEALTHY, b""], idle),
        (connections.WRITE_SECONDS, [b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"], stuck),
    ],
)
def test_a_connection_beyond_a_time_limit_is_closed(
    serve: Serve, clock: Clock, limit: float, sent: list[bytes], state: Callable[[TimedStream], bool]
) -> None:
    web = serve(routes=app(BIG), clock=clock)
    with connect(web) as raw:
        stream = only(web)
        clock.now += 1
        for request in sent[:-1]:
            raw.sendall(request)
            assert raw.recv(1 << 16).endswith(b"\r\n\r\nHealthy\n")
            until(lambda: idle(stream))
        raw.sendall(sent[-1])
        until(lambda: state(stream))
        clock.now += limit - 2
        time.sleep(0.1)  # the server checks a few times
        assert not stream.closed()
        clock.now += 3
        until(stream.closed)
        assert len(all_of(raw)) < BIG * len(BODY)
    assert len(ask(web).body) == BIG * len(BODY)


def test_a_header_that_arrives_byte_by_byte_is_cut_off(serve: Serve, clock: Clock) -> None:
    web = serve(clock=clock)
    with connect(web) as raw:
        stream = only(web)
        for _ in range(10):
            raw.sendall(b"x")
            clock.now += connections.REQUEST_SECONDS / 10
        time.sleep(0.1)
        assert not stream.closed()
        clock.now += 0.1
        until(stream.closed)


def test_a_steady_reader_is_closed_after_the_time_limit_for_answers(serve: Serve, clock: Clock) -> None:
    web = serve(routes=app(BIG), clock=clock)
    with connect(web) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # otherwise the kernel buffers more of the answer
        stream = only(web)
        raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        until(lambda: writing(stream))
        read = 0
        for _ in range(10):  # each round reads enough for the server to send more
            clock.now += connections.WRITE_SECONDS
            while stream.progress_at < clock.now:
                read += len(raw.recv(1 << 16))
        assert clock.now == 1000 + connections.RESPONSE_SECONDS
        time.sleep(0.1)
        assert not stream.closed()
        clock.now += 0.1
        until(stream.closed)
        assert read + len(all_of(raw)) < BIG * len(BODY)


class Gate:
    """A page that is rendered only after the gate has opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked: list[int] = []

    def render(self, *_: str) -> MetricsPage:
        self.asked.append(1)
        assert self.open.wait(60)
        return MetricsPage([("Content-Type", "text/plain")], [BODY])


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


def test_scrapes_beyond_the_limit_are_refused(serve: Serve, gate: Gate) -> None:
    web = serve(routes=routes(gate.render, "/metrics"), max_requests=7)
    waiting = [connect(web) for _ in range(7)]
    for raw in waiting:
        raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    until(lambda: scrapes(web) == 7)
    refused = ask(web)
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert ask(web, "/-/healthy").body == b"Healthy\n"
    gate.open.set()
    assert [all_of(raw)[-len(BODY) :] for raw in waiting] == [BODY] * 7
    for raw in waiting:
        raw.close()
    assert ask(web).body == BODY


def spins() -> bool:
    """Return whether this process uses more than half a CPU."""
    used = time.process_time()
    time.sleep(0.4)
    return time.process_time() - used > 0.2


@pytest.mark.parametrize(
    "pieces",
    [[b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"], [b"GET /met", b"rics HTTP/1.1\r\nHost: localhost\r\n\r\n"]],
)
def test_a_client_that_half_closes_its_connection_gets_an_answer(serve: Serve, gate: Gate, pieces: list[bytes]) -> None:
    web = serve(routes=routes(gate.render, "/metrics"), clock=Clock())
    with connect(web) as raw:
        for piece in pieces:
            raw.sendall(piece)
        raw.shutdown(socket.SHUT_WR)
        until(lambda: gate.asked == [1])
        for _ in range(3):  # during the second of these requests at the latest, the loop sees the half close
            assert ask(web, "/-/healthy").status == 200
        assert not spins()
        gate.open.set()
        assert all_of(raw).endswith(b"\r\n\r\n" + BODY)


@pytest.mark.parametrize("rest", [b"", b"GET /met"])
def test_all_requests_before_a_half_close_are_answered(serve: Serve, rest: bytes) -> None:
    """The pages are larger than the socket buffers."""
    web = serve(routes=app(BIG), clock=Clock())
    with connect(web) as raw:
        raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2 + rest)
        raw.shutdown(socket.SHUT_WR)
        stream = only(web)
        until(lambda: writing(stream))
        assert not spins()
        answer = all_of(raw)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answer.count(BODY) == 2 * BIG


def test_a_half_close_while_the_server_reads_a_request_does_not_prevent_the_answer(
    serve: Serve, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has read the header, but has not parsed it yet."""
    gate.open.set()
    web = serve(routes=routes(gate.render, "/metrics"))
    with connect(web) as raw:
        read = TimedStream.read_from_fd

        def and_ends(stream: TimedStream, buf: bytearray | memoryview) -> int | None:
            count = read(stream, buf)
            if count:
                raw.shutdown(socket.SHUT_WR)
            return count

        until(only(web).reading)
        monkeypatch.setattr(TimedStream, "read_from_fd", and_ends)
        raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert all_of(raw).endswith(b"\r\n\r\n" + BODY)


def test_a_body_that_ends_too_early_ends_the_connection(serve: Serve) -> None:
    web = serve()
    with connect(web) as raw:
        raw.sendall(b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcd")
        raw.shutdown(socket.SHUT_WR)
        assert all_of(raw) == b""


def test_the_reader_that_was_stuck_longest_is_closed_for_a_new_scrape(serve: Serve) -> None:
    clock = Clock()
    web = serve(routes=app(BIG), max_requests=3, clock=clock)
    standing = []
    for _ in range(3):
        standing.append(connect(web))
        standing[-1].sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        until(lambda: sum(map(stuck, held(web))) == len(standing))
        clock.now += 0.1
    assert ask(web).status == 503
    clock.now += 1
    assert len(ask(web).body) == BIG * len(BODY)
    # The server has closed the reader that was stuck longest. The others get their pages.
    assert [len(all_of(raw)) > BIG * len(BODY) for raw in standing] == [False, True, True]
    for raw in standing:
        raw.close()


def test_the_address_with_the_most_scrapes_loses_one_to_another_address(serve: Serve) -> None:
    """An address with many scrapes delays only the scrapes from that address."""
    web = serve(routes=app(BIG), max_requests=3, clock=Clock())
    greedy = [connect(web, "127.0.0.2") for _ in range(3)]
    for raw in greedy:
        raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    until(lambda: scrapes(web) == 3)
    with connect(web, "127.0.0.2") as fourth:
        fourth.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert all_of(fourth).startswith(b"HTTP/1.1 503 ")
    assert len(ask(web).body) == BIG * len(BODY)
    assert sum(len(all_of(raw)) > BIG * len(BODY) for raw in greedy) == 2
    for raw in greedy:
        raw.close()


def test_the_oldest_idle_connection_is_closed_for_a_new_connection(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "max_connections", lambda: 23)
    web = serve()
    scraper = http.client.HTTPConnection(web.addresses[0], timeout=20)
    scraper.request("GET", "/metrics")
    assert scraper.getresponse().read() == BODY
    idle = [connect(web) for _ in range(101)]
    assert ask(web).body == BODY
    closed = 0
    for raw in idle:
        raw.settimeout(0.05)
        with contextlib.suppress(socket.timeout):
            closed += raw.recv(1) == b""
    assert closed == 101 + 1 + 1 - 23
    # A connection that has sent a request stays open while other connections have sent no request.
    scraper.request("GET", "/metrics")
    assert scraper.getresponse().read() == BODY
    scraper.close()
    for raw in idle:
        raw.close()


def test_connections_whose_body_is_withheld_are_closed_first(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "max_connections", lambda: 23)
    web = serve()
    silent = connect(web)
    until(lambda: len(held(web)) == 1)
    withheld = [connect(web) for _ in range(22)]
    for raw in withheld:
        raw.sendall(NO_BODY)
    until(lambda: sum(map(heard, held(web))) == 22)
    assert held(web).busy == 0
    assert ask(web).body == BODY
    ends = []
    for raw in (silent, *withheld):
        raw.settimeout(0.05)
        with contextlib.suppress(socket.timeout):
            ends.append((raw, raw.recv(1)))
    assert ends == [(withheld[0], b"")]
    for raw in (silent, *withheld):
        raw.close()


def test_a_request_is_answered_when_its_body_arrives(serve: Serve) -> None:
    web = serve()
    with connect(web) as raw:
        for _ in range(2):
            raw.sendall(NO_BODY)
            until(lambda: heard(only(web)))
            raw.sendall(b"e")
            assert raw.recv(1 << 16).startswith(b"HTTP/1.1 403 ")


def test_the_connection_limit_leaves_descriptors_for_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((1024, 896), (256, 128), (64, 16), (1 << 20, 1000), (-1, 1000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert connections.max_connections() == most


def test_a_reload_request_returns_its_result_and_is_refused_if_disabled(serve: Serve) -> None:
    calls: list[int] = []
    wrong = ["", "config.yaml:3: linger: has no unit"]

    def reload() -> str:
        calls.append(1)
        return wrong[len(calls) - 1]

    web = serve(routes=routes(lambda *_: MetricsPage([], []), "/metrics", reload=reload))
    assert ask(web, "/-/reload").status == 405
    assert not calls
    assert ask(web, "/-/reload", method="POST").status == 200
    got = ask(web, "/-/reload", method="PUT")
    assert (got.status, got.body) == (500, b"failed to reload config: config.yaml:3: linger: has no unit\n")
    got = ask(serve(), "/-/reload", method="POST")
    assert (got.status, got.body) == (403, b"Lifecycle API is not enabled.\n")


def test_requests_to_reload_have_a_rate(serve: Serve) -> None:
    calls, permits = [], iter([True, False, True])

    def reload() -> str:
        calls.append(1)
        return ""

    render = MetricsPage([], [])
    web = serve(routes=routes(lambda *_: render, "/metrics", reload=reload, may_reload=lambda: next(permits)))
    answers = [ask(web, "/-/reload", method="POST") for _ in range(3)]
    assert [(answer.status, answer.headers["Retry-After"]) for answer in answers] == [
        (200, None),
        (429, "10"),
        (200, None),
    ]
    assert len(calls) == 2


def test_close_finishes_the_answers_in_progress(serve: Serve, gate: Gate) -> None:
    web = serve(routes=routes(gate.render, "/metrics"))
    with connect(web) as raw, connect(web) as idle:
        raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: gate.asked == [1] and len(held(web)) == 2)
        threading.Timer(0.3, gate.open.set).start()
        web.close()
        assert all_of(raw).endswith(BODY)
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(raw.getpeername(), timeout=5)
