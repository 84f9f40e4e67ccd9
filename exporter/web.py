"""The HTTP side: which path answers what, and the sockets it listens on."""

from __future__ import annotations

import contextlib
import html
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from typing import IO, Any, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from exporter import __version__, document
from exporter.config import host_port
from exporter.exposition.page import Page
from exporter.logs import event

log = logging.getLogger(__name__)

_BACKLOG = 128
_MAX_CONNECTIONS = 64  # at a time, on each address; a Prometheus server needs one
_REQUEST_SECONDS = 30
"""A client that sends nothing for so long is dropped."""

Render = Callable[[str, str], Page]
"""Headers Accept and Accept-Encoding to the metrics page."""

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class ListenError(Exception):
    """An address cannot be listened on; one line says which and why."""


def application(
    render: Render, telemetry_path: str, notice: str = "", vcpus: Callable[[], bytes] | None = None
) -> Callable[..., Iterable[bytes]]:
    """Return the WSGI application. `notice` is shown on the landing page, escaped.

    `vcpus` makes the JSON document of /-/vcpus.
    """
    landing = _landing(telemetry_path, notice).encode()

    def respond(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO") or "/"
        status, kind, body = "200 OK", "text/plain; charset=utf-8", b""
        page: Page | None = None
        extra: list[tuple[str, str]] = []
        if method not in ("GET", "HEAD"):
            status, body = "405 Method Not Allowed", b"Method Not Allowed\n"
            extra = [("Allow", "GET, HEAD")]
        elif path == telemetry_path:
            try:
                page = render(environ.get("HTTP_ACCEPT", ""), environ.get("HTTP_ACCEPT_ENCODING", ""))
                kind, extra = "", page.headers
            except Exception as error:  # a defect of ours: one scrape fails, and the log says why
                event(log, "error", "a page could not be made", err=error)
                status, body = "500 Internal Server Error", b"Internal Server Error\n"
        elif path == document.PATH and vcpus:
            try:
                body, kind = vcpus(), "application/json"
            except Exception as error:  # likewise
                event(log, "error", "the document of the vCPUs could not be made", err=error)
                status, body = "500 Internal Server Error", b"Internal Server Error\n"
        elif path == "/-/healthy":
            body = b"Healthy\n"
        elif path == "/":
            kind, body = "text/html; charset=utf-8", landing
            extra = [("Content-Security-Policy", "default-src 'none'")]
        else:
            status, body = "404 Not Found", b"Not Found\n"
        if kind:
            extra = [("Content-Type", kind), *extra]
        size = page.size if page else len(body)
        headers = [*extra, ("Content-Length", str(size)), ("X-Content-Type-Options", "nosniff")]
        start_response(status, headers)
        if method == "HEAD":
            return []
        return page.batches() if page else [body]

    return respond


def _landing(telemetry_path: str, notice: str) -> str:
    path = html.escape(telemetry_path)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>kvm-exit-exporter</title></head>\n'
        f"<body>\n<h1>kvm-exit-exporter {html.escape(__version__)}</h1>\n"
        + (f"<p>{html.escape(notice)}</p>\n" if notice else "")
        + "<p>Why the virtual machines of this host leave guest mode, how often and for how long.</p>\n"
        f'<ul>\n<li><a href="{path}">{path}</a></li>\n<li><a href="/-/healthy">/-/healthy</a></li>\n</ul>\n'
        "</body>\n</html>\n"
    )


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each connection, up to a limit: more would take descriptors and memory from the counting."""

    daemon_threads = True

    def __init__(self, bound: socket.socket, app: Callable[..., Iterable[bytes]]) -> None:
        super().__init__(bound.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.server_name, self.server_port = "kvm-exit-exporter", bound.getsockname()[1]
        self.setup_environ()
        self.set_app(app)
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the connection, or refuse it."""
        if not self._free.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.settimeout(1)
                request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread to be had
            self._free.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle it, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def get_request(self) -> Any:
        """Accept a connection. Out of descriptors, pause: the socket stays readable, and the loop would spin."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Drop the connection. A client that goes away in mid-answer is not worth a line in the log."""


class _Response(ServerHandler):
    server_software = "kvm-exit-exporter"

    def log_exception(self, exc_info: Any) -> None:
        """Say nothing: what is left to fail here is the client's connection."""


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_SECONDS

    def handle(self) -> None:
        """Answer one request, as the base class does, but with our _Response."""
        self.raw_requestline = self.rfile.readline(65537)
        if len(self.raw_requestline) > 65536:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
            return
        if not self.parse_request():
            return
        response = _Response(
            cast("IO[bytes]", self.rfile),
            cast("IO[bytes]", self.wfile),
            self.get_stderr(),
            self.get_environ(),
            multithread=True,
        )
        response.request_handler = self  # type: ignore[attr-defined]  # how wsgiref's own handle() does it
        response.run(self.server.get_app())  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        """Log no request: one a scrape, for ever, helps nobody."""


class Web:
    """Listening sockets with a thread each. All are bound before the first answers."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._sockets: list[socket.socket] = []
        self._servers: list[_Server] = []
        try:
            for address in addresses:
                self._sockets.append(_listen(address))
        except ListenError:
            self.close()
            raise

    @property
    def addresses(self) -> list[str]:
        """What is listened on, as host:port with the real port."""
        names = [bound.getsockname() for bound in self._sockets]
        return [f"[{name[0]}]:{name[1]}" if len(name) == 4 else f"{name[0]}:{name[1]}" for name in names]

    def serve(self, app: Callable[..., Iterable[bytes]]) -> None:
        """Start answering; returns at once."""
        for bound in self._sockets:
            server = _Server(bound, app)
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, name="web", daemon=True).start()

    def close(self) -> None:
        """Stop answering and free the addresses. Answers under way are cut off with the process."""
        for server in self._servers:
            server.shutdown()
        for bound in self._sockets:
            bound.close()


def _listen(address: str) -> socket.socket:
    host, port = host_port(address)
    try:
        if host:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=_BACKLOG)
        if socket.has_dualstack_ipv6():
            # Every address, IPv4 included, as a Go server's ":9939" does.
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
        return socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)  # noqa: S104 - asked for
    except OSError as error:
        # create_server repeats the address in the text of its error
        reason = (error.strerror or str(error)).split(" (while", 1)[0]
        raise ListenError(f"cannot listen on {address}: {reason}") from error
