"""Requests, responses and routes as plain values. No socket is used here."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Callable, NamedTuple

from exporter.common.batches import batches
from exporter.common.logs import event

log = logging.getLogger(__name__)

READ_METHODS, WRITE_METHODS = ("GET", "HEAD"), ("POST", "PUT")
"""The methods of a route that only reads, and the methods of a route that changes something."""

REASON_PHRASES = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Payload Too Large",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
"""The text of each status in the status line."""


class Request(NamedTuple):
    """The parts of a request that a response can depend on. `path` is decoded and has no query."""

    method: str
    path: str
    accept: str = ""
    accept_encoding: str = ""


@dataclass(frozen=True, eq=False)
class Response:
    """A response, whose body is in pieces so that a large one is not copied. Several requests can share it.

    `headers` has the headers of this response alone. exchange.py adds the headers that every response has.
    """

    status: int
    headers: Sequence[tuple[str, str]]
    pieces: Sequence[bytes] = ()

    @property
    def reason_phrase(self) -> str:
        """The text of the status in the status line."""
        return REASON_PHRASES[self.status]

    @cached_property
    def size(self) -> int:
        """Length of the body in bytes."""
        return sum(map(len, self.pieces))

    def batches(self) -> Iterator[bytes]:
        """Yield the body in parts of 256 KiB or little more, to save system calls."""
        return batches(self.pieces)


def one_shape(_: Request) -> Hashable:
    """Return the same shape for each request."""
    return None


class Route(NamedTuple):
    """The handler of a path, and the methods that it accepts."""

    handler: Callable[[Request], Response]
    methods: tuple[str, ...] = READ_METHODS
    in_thread: bool = False
    """The handler runs in a worker thread, its request counts as a scrape, and requests share the response."""
    shape: Callable[[Request], Hashable] = one_shape
    """Returns the shape of the response: requests of the same shape can share a response."""


Routes = Mapping[str, Route]
"""Path to route."""


def text_response(status: int, text: str = "", *headers: tuple[str, str]) -> Response:
    """Return a response with one line of plain text. Without `text` the line is the text of the status."""
    line = (text or REASON_PHRASES[status]) + "\n"
    return Response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers], [line.encode()])


def constant(response: Response) -> Route:
    """Return the route of a path whose response is always the same."""
    return Route(lambda _: response)


def find_route(routes: Routes, request: Request) -> Route:
    """Return the route of a request. For an unknown path or a wrong method, the route responds with 404 or 405."""
    route = routes.get(request.path)
    if route is None:
        return constant(text_response(404))
    if request.method not in route.methods:
        return constant(text_response(405, "", ("Allow", ", ".join(route.methods))))
    return route


def respond(route: Route, request: Request) -> Response:
    """Return the response of a route. If the handler fails, log the error and return status 500. Raises nothing."""
    try:
        return route.handler(request)
    except Exception as error:  # a defect of the exporter
        event(log, "error", "a page could not be made", path=request.path, err=error)
        return text_response(500)
