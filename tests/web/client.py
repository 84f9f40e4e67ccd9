"""A simple scraper, and an application that the scraper can scrape."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
from pathlib import Path
from typing import NamedTuple

from exporter.metrics.exposition.page import MetricsPage
from exporter.page.page import HtmlPage, PageData
from exporter.page.view import Health
from exporter.readings.reading import nothing
from exporter.service.routes import routes
from exporter.web.response import Routes
from exporter.web.server import WebServer

BODY = b"kvm_exits_total 4801\n"


class Got(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def app(size: int = 1) -> Routes:
    """Return routes. /metrics is BODY repeated `size` times, and / is the page of a host without VMs."""
    page = MetricsPage([("Content-Type", "text/plain; version=0.0.4")], [BODY] * size)
    html_page = HtmlPage(
        lambda: PageData(nothing(0), Health(True, 0, 0)), lambda: 1.0, kernel="6.1", telemetry_path="/metrics"
    )
    return routes(lambda *_: page, "/metrics", page=html_page)


def ask(
    web: WebServer,
    path: str = "/metrics",
    *,
    method: str = "GET",
    tls: ssl.SSLContext | None = None,
    user: tuple[str, str] | None = None,
) -> Got:
    """Send one request on a new connection. Return the answer."""
    address = web.addresses[0]
    if tls:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(address, timeout=20, context=tls)
    else:
        connection = http.client.HTTPConnection(address, timeout=20)
    headers = {}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(user).encode()).decode()
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return Got(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def connect(web: WebServer, source: str = "") -> socket.socket:
    """Open a TCP connection without TLS and without a request. If `source` is given, it is the local address."""
    host, port = web.addresses[0].rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), 20, (source, 0) if source else None)


def all_of(raw: socket.socket) -> bytes:
    """Return all bytes until the other end closes or resets the connection."""
    parts = []
    try:
        while part := raw.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def trusting(pki: Path, client: str = "", **versions: ssl.TLSVersion) -> ssl.SSLContext:
    """Return a TLS context that trusts the authority `ca`. If `client` is given, the context sends that certificate."""
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # this is the default of Python 3.13
    if client:
        context.load_cert_chain(pki / f"{client}.crt", pki / f"{client}.key")
    for name, version in versions.items():
        setattr(context, name, version)
    return context
