"""The addresses that the server listens on."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from exporter.web.listen import ListenError
from exporter.web.response import constant, text_response
from exporter.web.server import WebServer

ROUTES = {"/-/healthy": constant(text_response(200, "Healthy"))}


@pytest.fixture
def served() -> Iterator[WebServer]:
    web = WebServer(["127.0.0.1:0", "[::1]:0"])
    web.serve(ROUTES)
    yield web
    web.close()


def test_an_ipv6_address_is_served(served: WebServer) -> None:
    assert served.addresses[1].startswith("[::1]:")
    host, port = served.addresses[1].rsplit(":", 1)
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=10)
    connection.request("GET", "/-/healthy")
    assert connection.getresponse().status == 200
    connection.close()


def test_an_address_without_a_host_means_all_ipv4_and_ipv6_addresses() -> None:
    web = WebServer([":0"])
    web.serve(ROUTES)
    port = int(web.addresses[0].rsplit(":", 1)[1])
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port), timeout=10):
            pass
    web.close()


def test_an_address_that_cannot_be_used_is_an_error(served: WebServer) -> None:
    with pytest.raises(ListenError) as caught:
        WebServer(["127.0.0.1:0", served.addresses[0]])
    assert str(caught.value) == f"cannot listen on {served.addresses[0]}: Address already in use"
    with pytest.raises(ListenError, match=r"^cannot listen on 192\.0\.2\.1:9: Cannot assign requested address$"):
        WebServer(["192.0.2.1:9"])
    with pytest.raises(ListenError, match=r"^cannot listen on no-such-host\.invalid:9: "):
        WebServer(["no-such-host.invalid:9"])
