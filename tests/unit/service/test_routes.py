"""The paths of the web server: their answers and their methods."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from exporter.metrics.exposition.page import MetricsPage
from exporter.model.reason import Space
from exporter.page.page import HtmlPage, PageData
from exporter.page.view import Health
from exporter.readings.reading import nothing
from exporter.service.routes import routes
from exporter.web.server import WebServer
from tests.support import pages
from tests.support.exits import WEB, cell, families, of, record


def _render(accept: str, accept_encoding: str) -> MetricsPage:
    body = [b"accept ", accept.encode("latin-1"), b" encoding ", accept_encoding.encode("latin-1"), b"\n"]
    return MetricsPage([("Content-Type", "text/plain; version=0.0.4"), ("Vary", "Accept, Accept-Encoding")], body)


@pytest.fixture
def served() -> Iterator[WebServer]:
    web = WebServer(["127.0.0.1:0", "[::1]:0"])
    page = HtmlPage(
        lambda: PageData(nothing(0), Health(True, 0, 0)), lambda: 1.0, kernel="6.1", telemetry_path="/metrics"
    )
    web.serve(routes(_render, "/metrics", page=page))
    yield web
    web.close()


def _ask(web: WebServer, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(web.addresses[0], timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_each_path_has_its_answer(served: WebServer) -> None:
    answer, body = _ask(served, "GET", "/metrics", Accept="x/y", **{"Accept-Encoding": "br"})
    assert (answer.status, body) == (200, b"accept x/y encoding br\n")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
    # http.client asks for the encoding identity
    assert _ask(served, "GET", "/metrics?name[]=up")[1] == b"accept  encoding identity\n"
    assert _ask(served, "GET", "/-/healthy")[1] == b"Healthy\n"
    answer, body = _ask(served, "GET", "/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert b'href="./metrics"' in body
    answer, part = _ask(served, "GET", "/-/overview")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert part in body
    for path in ("/metrics/", "/favicon.ico", "/-/ready"):
        assert _ask(served, "GET", path)[0].status == 404


def test_the_server_is_ready_while_there_is_no_reason_against_it() -> None:
    reasons = iter(["waiting for KVM", "", "stopping"])
    web = WebServer(["127.0.0.1:0"])
    web.serve(routes(_render, "/metrics", not_ready=lambda: next(reasons)))
    answers = [_ask(web, "GET", "/-/ready") for _ in range(3)]
    assert [(answer.status, body) for answer, body in answers] == [
        (503, b"Not ready: waiting for KVM\n"),
        (200, b"Ready\n"),
        (503, b"Not ready: stopping\n"),
    ]
    assert _ask(web, "POST", "/-/ready")[0].status == 405
    web.close()


def test_vcpus_are_served_as_json(served: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    assert _ask(served, "GET", "/-/vcpus")[0].status == 404
    documents = iter([[b'{"vcpus":', b" []}"]])  # the second request fails
    web = WebServer(["127.0.0.1:0"])
    web.serve(routes(_render, "/metrics", vcpus=lambda: next(documents)))
    answer, body = _ask(web, "GET", "/-/vcpus")
    assert (answer.headers["Content-Type"], body) == ("application/json", b'{"vcpus": []}')
    assert _ask(web, "GET", "/-/vcpus")[0].status == 500
    assert [record.getMessage() for record in caplog.records] == ["a page could not be made"]
    web.close()


def test_head_is_answered_and_post_is_refused(served: WebServer) -> None:
    answer, body = _ask(served, "HEAD", "/metrics")
    assert (answer.status, answer.headers["Content-Length"], body) == (200, "26", b"")
    answer, _ = _ask(served, "POST", "/metrics")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("accept", pages.FORMATS)
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_head_has_the_headers_of_get(accept: str, encoding: str) -> None:
    """The page has more than one batch. Its length must be known before the first batch is sent."""
    cells = [cell(Space.VMX, code, 1, dict.fromkeys(range(0, 142, 5), 1), 1) for code in range(20)]
    made = families(of(WEB, *(record(100, tid, *cells) for tid in range(101, 141))))
    exposition = pages.exposition()
    web = WebServer(["127.0.0.1:0"])
    web.serve(routes(lambda *headers: exposition.page(made, *headers), "/metrics"))
    headers = {"Accept": accept, "Accept-Encoding": encoding}
    got, body = _ask(web, "GET", "/metrics", **headers)
    head, nothing = _ask(web, "HEAD", "/metrics", **headers)
    web.close()
    assert (got.status, head.status, nothing) == (200, 200, b"")
    kept = [[pair for pair in answer.getheaders() if pair[0] != "Date"] for answer in (got, head)]
    assert kept[0] == kept[1]
    assert got.headers["Content-Length"] == str(len(body))
    assert got.headers["Content-Encoding"] == (None if encoding == "identity" else "gzip")
    assert body == pages.page(made, accept, encoding).body


def test_an_invalid_request_does_not_stop_the_next_request(served: WebServer) -> None:
    host, port = served.addresses[0].split(":")
    for garbage in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(garbage)
    assert _ask(served, "GET", "/metrics")[0].status == 200


def test_a_page_that_cannot_be_made_gives_status_500_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    def broken(accept: str, accept_encoding: str) -> MetricsPage:
        raise KeyError("reason")

    web = WebServer(["127.0.0.1:0"])
    web.serve(routes(broken, "/metrics"))
    assert _ask(web, "GET", "/metrics")[0].status == 500
    assert _ask(web, "GET", "/-/healthy")[0].status == 200
    assert [record.getMessage() for record in caplog.records] == ["a page could not be made"]
    web.close()
