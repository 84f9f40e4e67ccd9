"""Requests and answers as plain values: what the server is given to send. No socket here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Callable, NamedTuple

from exporter.common.batches import batches
from exporter.common.logs import event

log = logging.getLogger(__name__)

READ, CHANGE = ("GET", "HEAD"), ("POST", "PUT")
"""Methods of a path that only answers, and of one that changes something."""

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Payload Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Request(NamedTuple):
    """A request as far as an answer can depend on it; `path` is decoded and has no query."""

    method: str
    path: str
    accept: str = ""
    accept_encoding: str = ""


class Answer(NamedTuple):
    """An answer. `headers` lack those that every answer has. The body is in pieces: a large one is not copied."""

    status: int
    headers: Sequence[tuple[str, str]]
    pieces: Sequence[bytes] = ()

    @property
    def reason(self) -> str:
        """The words of the status line."""
        return REASONS[self.status]

    @property
    def size(self) -> int:
        """Length of the body in bytes."""
        return sum(map(len, self.pieces))

    def batches(self) -> Iterator[bytes]:
        """Yield the body in parts that are worth a system call each."""
        return batches(self.pieces)


class Route(NamedTuple):
    """A path's answer. One that takes work is made in a thread, and counts as a scrape in flight."""

    answer: Callable[[Request], Answer]
    methods: tuple[str, ...] = READ
    work: bool = False


Routes = Mapping[str, Route]
"""Path to route."""


def text(status: int, body: str = "", *headers: tuple[str, str]) -> Answer:
    """A line of plain text; without `body` the words of the status."""
    line = (body or REASONS[status]) + "\n"
    return Answer(status, [("Content-Type", "text/plain; charset=utf-8"), *headers], [line.encode()])


def constant(made: Answer) -> Route:
    """The route of a path that always gives the same answer."""
    return Route(lambda _: made)


def route(routes: Routes, request: Request) -> Route:
    """The route of a request, which may be one that refuses it."""
    found = routes.get(request.path)
    if found is None:
        return constant(text(404))
    if request.method not in found.methods:
        return constant(text(405, "", ("Allow", ", ".join(found.methods))))
    return found


def answer(found: Route, request: Request) -> Answer:
    """The route's answer. Raises nothing: where it fails, one request does, and the log says why."""
    try:
        return found.answer(request)
    except Exception as error:  # a defect of ours
        event(log, "error", "a page could not be made", path=request.path, err=error)
        return text(500)
