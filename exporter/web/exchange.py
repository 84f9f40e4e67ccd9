"""One request and its answer on a connection: what is refused at once, who may ask, and sending with back-pressure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from email.utils import formatdate
from typing import Protocol
from urllib.parse import unquote, urlsplit

from tornado import httputil
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from exporter.common.logs import event
from exporter.web.answer import REASONS, Answer, Request, Route, Routes, answer, route, text
from exporter.web.stream import TimedStream

log = logging.getLogger(__name__)

MAX_BODY = 1 << 16
_WITH_BODY = {"POST", "PUT"}


class Host(Protocol):
    """What an exchange asks of the server."""

    routes: Routes

    @property
    def pool(self) -> Executor:
        """The threads that make pages."""

    @property
    def headers(self) -> Iterable[tuple[str, str]]:
        """What the operator adds to every answer."""

    async def refused(self, authorization: str, peer: str) -> Answer | None:
        """The answer to somebody who may not ask, else None."""

    def admit(self, stream: TimedStream, peer: str) -> bool:
        """Count a scrape in flight; False where there are too many."""

    def leave(self, stream: TimedStream) -> None:
        """A scrape admitted before is over."""


class Exchange(httputil.HTTPMessageDelegate):
    """Takes what tornado has parsed, and answers."""

    def __init__(self, host: Host, connection: HTTP1Connection, stream: TimedStream, peer: str) -> None:
        self._host = host
        self._connection = connection
        self._stream = stream
        self._peer = peer
        self._request = Request("", "")
        self._authorization = ""
        self._task: asyncio.Task[None] | None = None

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> None:
        """Take a request's header; one that is wrong, or has a body that will not be read, is refused here."""
        assert isinstance(start_line, httputil.RequestStartLine)
        self._stream.begin()
        self._request = Request(
            start_line.method,
            _path(start_line.path),
            headers.get("Accept", ""),
            headers.get("Accept-Encoding", ""),
        )
        self._authorization = headers.get("Authorization", "")
        refused = _host_refused(start_line.version, headers) or _body_refused(start_line.method, headers)
        if refused:
            self._connection.detach()  # so that tornado does not read the body either
            self._stream.refuse(refused, REASONS[refused])

    def data_received(self, chunk: bytes) -> None:
        """Drop the body: no path takes one."""

    def finish(self) -> None:
        """Answer; tornado reads no further request of this connection until that is done."""
        self._task = asyncio.get_running_loop().create_task(self._respond())

    def on_connection_close(self) -> None:
        """Nothing to give back: _respond() has not begun."""

    async def _respond(self) -> None:
        try:
            await self._answer()
            self._connection.finish()
        except StreamClosedError:
            pass  # the client's connection: there is nobody left to tell
        except Exception as error:  # a defect of ours: one connection fails, and the log says why
            event(log, "error", "an answer could not be sent", path=self._request.path, err=error)
            self._stream.close()
        finally:
            self._stream.end()

    async def _answer(self) -> None:
        refusal = await self._host.refused(self._authorization, self._peer)
        found = route(self._host.routes, self._request)
        if refusal:
            await self._send(refusal)
        elif not found.work:
            await self._send(answer(found, self._request))
        elif not self._host.admit(self._stream, self._peer):
            await self._send(text(503, "Too many scrapes at the same time", ("Retry-After", "1")))
        else:
            try:
                made = await asyncio.get_running_loop().run_in_executor(self._host.pool, self._make, found)
                await self._send(made)
            finally:
                self._host.leave(self._stream)

    def _make(self, found: Route) -> Answer:
        """In a thread, and only if the client still waits when one is free."""
        return text(503) if self._stream.closed() else answer(found, self._request)

    async def _send(self, made: Answer) -> None:
        headers = httputil.HTTPHeaders(
            {
                "Date": formatdate(usegmt=True),
                "X-Content-Type-Options": "nosniff",
                "Content-Length": str(made.size),
            }
        )
        for name, value in (*made.headers, *self._host.headers):
            headers[name] = value
        start_line = httputil.ResponseStartLine("HTTP/1.1", made.status, made.reason)
        body: Iterator[bytes] = iter(())
        if self._request.method != "HEAD":
            body = made.batches()
        # The first part goes with the headers, each other when the one before has gone.
        await self._gone(self._connection.write_headers(start_line, headers, next(body, None)))
        for batch in body:
            await self._gone(self._connection.write(batch))

    async def _gone(self, written: asyncio.Future[None]) -> None:
        """Wait until bytes are written. tornado forgets the future if the connection ends at the wrong moment."""
        await asyncio.wait({written, self._stream.gone}, return_when=asyncio.FIRST_COMPLETED)
        if self._stream.closed():
            raise StreamClosedError


def _path(target: str) -> str:
    """The path that a request's target asks for, decoded, without its query; "" of one that has none."""
    if not target.startswith("/"):  # as a proxy is asked: with scheme and host
        try:
            target = urlsplit(target).path or "/"
        except ValueError:
            return ""
    return unquote(target.partition("?")[0])


def _host_refused(version: str, headers: httputil.HTTPHeaders) -> int:
    """The status for a request without a host, or with two (RFC 9112, 3.2); 0 for one that is right."""
    hosts = len(headers.get_list("Host"))
    return 400 if hosts > 1 or (not hosts and version != "HTTP/1.0") else 0


def _body_refused(method: str, headers: httputil.HTTPHeaders) -> int:
    """The status that refuses a request for its body; 0 for one that is small enough, and will be dropped."""
    # Whoever counts a body otherwise than we do would see other requests on this connection than we do.
    if "Transfer-Encoding" in headers:
        return 411
    length = headers.get("Content-Length", "0")
    if not (length.isascii() and length.isdigit()):
        return 400
    return 413 if len(length) > 9 or int(length) > (MAX_BODY if method in _WITH_BODY else 0) else 0
