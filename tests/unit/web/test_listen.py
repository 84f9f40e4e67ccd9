"""The addresses that the server listens on."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
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


_ON_LOOPBACK = """
import ctypes, fcntl, http.client, pathlib, socket, struct, time
from exporter.terminal.address import parse
from exporter.web.response import constant, text_response
from exporter.web.server import WebServer

CLONE_NEWNET, SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x40000000, 0x8914, 0x8916, 1  # sched.h, sockios.h, if.h
IFA_F_TENTATIVE = 0x40  # if_addr.h
assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as raw:
    fcntl.ioctl(raw, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
    address = struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, "fe80::1"), 64, socket.if_nametoindex("lo"))
    fcntl.ioctl(raw, SIOCSIFADDR, address)


def tentative():
    rows = map(str.split, pathlib.Path("/proc/thread-self/net/if_inet6").read_text().splitlines())
    return any(int(flags, 16) & IFA_F_TENTATIVE for _, _, _, _, flags, _ in rows)


while tentative():  # bind() is refused until a worker of the kernel ends the check for duplicates, on loopback too
    time.sleep(0.01)
for zone in ("lo", "1"):
    web = WebServer([f"[fe80::1%{zone}]:0"])
    web.serve({"/-/healthy": constant(text_response(200, "Healthy"))})
    found = parse(f"http://{web.addresses[0]}")
    connection = http.client.HTTPConnection(found.host, found.port, timeout=10)
    connection.request("GET", "/-/healthy")
    print(web.addresses[0].rsplit(":", 1)[0], connection.getresponse().status)
    web.close()
"""
"""Serves on a link-local address, in a network namespace of its own."""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
def test_a_link_local_address_is_served_on_its_interface() -> None:
    done = subprocess.run([sys.executable, "-c", _ON_LOOPBACK], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("[fe80::1%lo] 200\n" * 2, "")


def test_an_interface_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ListenError) as caught:
        WebServer(["[fe80::1%none0]:0"])
    assert str(caught.value) == "cannot listen on [fe80::1%none0]:0: No such device"
