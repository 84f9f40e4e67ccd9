"""One request and its response on a connection: early checks, authorization, and sending at the client's pace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from typing import Protocol
from urllib.parse import unquote, urlsplit

from tornado import httputil
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from exporter.common.logs import event
from exporter.web.origin import HostNames, is_cross_site
from exporter.web.response import READ_METHODS, Request, Response, Routes, find_route, respond, text_response
from exporter.web.scrapes import Scrapes
from exporter.web.stream import TimedStream
from exporter.web.turns import Turns

log = logging.getLogger(__name__)

MAX_BODY = 1 << 16
"""Limit of the body of a request, in bytes."""
_METHODS_WITH_BODY = {"POST", "PUT"}


class ServerInterface(Protocol):
    """The parts of the server that an exchange uses."""

    routes: Routes

    @property
    def turns(self) -> Turns:
        """The worker that makes bodies."""

    @property
    def scrapes(self) -> Scrapes:
        """The scrapes in flight."""

    @property
    def host_names(self) -> HostNames:
        """The names that a Host header may have."""

    @property
    def headers(self) -> Iterable[tuple[str, str]]:
        """Headers that the operator adds to every response."""

    async def authorize(self, authorization: str, client: str) -> Response | None:
        """Return the response that refuses a client; None if the client may send requests."""


class Exchange(httputil.HTTPMessageDelegate):
    """Takes a request from tornado's parser, and responds to it. clients.py makes the text `client`."""

    def __init__(self, server: ServerInterface, connection: HTTP1Connection, stream: TimedStream, client: str) -> None:
        self._server = server
        self._connection = connection
        self._stream = stream
        self._client = client
        self._request = Request("", "")
        self._authorization = ""
        self._task: asyncio.Task[None] | None = None

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> None:
        """Take the header of a request. Refuses a header that is not valid, and a body that is too large."""
        assert isinstance(start_line, httputil.RequestStartLine)
        self._request = Request(
            start_line.method,
            _path(start_line.path),
            headers.get("Accept", ""),
            headers.get("Accept-Encoding", ""),
        )
        self._authorization = headers.get("Authorization", "")
        error_status = _host_error(start_line.version, headers) or _body_error(start_line.method, headers)
        if error_status:
            self._refuse(error_status)
        elif not self._server.host_names.know(headers.get("Host", ""), self._stream.local_address):
            self._refuse(421, "Unknown name in Host. The option web.host_names can allow it.")
        elif start_line.method not in READ_METHODS and is_cross_site(headers):
            self._refuse(403, "Cross-site request")
        elif headers.get("Content-Length", "0").strip("0"):
            self._stream.await_body()

    def _refuse(self, status: int, text: str = "") -> None:
        self._connection.detach()  # so that tornado does not read the body
        self._stream.refuse(status, text)

    def data_received(self, chunk: bytes) -> None:
        """Discard a part of the body, because no path uses the body."""

    def finish(self) -> None:
        """Start to respond to a whole request. tornado reads the next one when the response has been sent."""
        self._stream.begin_request()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def on_connection_close(self) -> None:
        """Do nothing: the response has not begun, so no resource must be released."""

    async def _run(self) -> None:
        try:
            await self._respond()
            self._connection.finish()
        except StreamClosedError:
            pass  # the connection is closed: no client waits for the response
        except Exception as error:  # a defect of the exporter: only this connection fails
            event(log, "error", "a response could not be sent", path=self._request.path, err=error)
            self._stream.close()
        finally:
            self._stream.end_request()

    async def _respond(self) -> None:
        refusal = await self._server.authorize(self._authorization, self._client)
        route = find_route(self._server.routes, self._request)
        if refusal:
            await self._send(refusal)
        elif not route.in_thread:
            await self._send(respond(route, self._request))
        elif not self._server.scrapes.admit(self._stream, self._client):
            await self._send(text_response(503, "Too many scrapes at the same time", ("Retry-After", "1")))
        else:
            try:
                response = await self._server.turns.response(route, self._request, self._stream, self._client)
                self._server.scrapes.sends(self._stream, response)
                await self._send(response)
            finally:
                self._server.scrapes.release(self._stream)

    async def _send(self, response: Response) -> None:
        headers = httputil.HTTPHeaders(
            {
                "Date": formatdate(usegmt=True),
                "X-Content-Type-Options": "nosniff",
                "Content-Length": str(response.size),
            }
        )
        self._stream.counts.responses[response.status] += 1
        for name, value in (*response.headers, *self._server.headers):
            headers[name] = value
        start_line = httputil.ResponseStartLine("HTTP/1.1", response.status, response.reason_phrase)
        body: Iterator[bytes] = iter(())
        if self._request.method != "HEAD":
            body = response.batches()
        # The first batch is sent with the headers. Each later batch waits until the one before is sent.
        await self._sent(self._connection.write_headers(start_line, headers, next(body, None)))
        for batch in body:
            await self._sent(self._connection.write(batch))

    async def _sent(self, written: asyncio.Future[None]) -> None:
        """Wait until bytes are sent. Raises StreamClosedError if the connection is closed.

        `written` alone is not enough: tornado may never complete it if the connection is closed meanwhile.
        """
        await asyncio.wait({written, self._stream.closing}, return_when=asyncio.FIRST_COMPLETED)
        if self._stream.closed():
            raise StreamClosedError


def _path(target: str) -> str:
    """Return the decoded path of a request's target, without its query; "" if the target has no path."""
    if not target.startswith("/"):  # the target includes scheme and host, like a request to a proxy
        try:
            target = urlsplit(target).path or "/"
        except ValueError:
            return ""
    return unquote(target.partition("?")[0])


def _host_error(version: str, headers: httputil.HTTPHeaders) -> int:
    """Return status 400 for a request with no Host header or with two (RFC 9112, 3.2); 0 for a valid request."""
    hosts = len(headers.get_list("Host"))
    return 400 if hosts > 1 or (not hosts and version != "HTTP/1.0") else 0


def _body_error(method: str, headers: httputil.HTTPHeaders) -> int:
    """Return the status that refuses the body of a request; 0 if the body is small enough to be discarded."""
    # Only a plain Content-Length is accepted. If a proxy and this server disagreed about the length of a body, they
    # would see different requests on this connection.
    if "Transfer-Encoding" in headers:
        return 411
    length = headers.get("Content-Length", "0")
    if not (length.isascii() and length.isdigit()):
        return 400
    return 413 if len(length) > 9 or int(length) > (MAX_BODY if method in _METHODS_WITH_BODY else 0) else 0
