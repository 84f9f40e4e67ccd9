"""What each path answers. No socket here: a request comes as a value, and the answer goes as one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Callable, NamedTuple

from exporter import document, overview
from exporter.exposition.page import Page
from exporter.logs import event
from exporter.overview import Overview

log = logging.getLogger(__name__)

Render = Callable[[str, str], Page]
"""Headers Accept and Accept-Encoding to the metrics page."""

Reload = Callable[[], str]
"""Reads the configuration again; "" or one line that says what is wrong with it."""

_READ, _CHANGE = ("GET", "HEAD"), ("POST", "PUT")
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
    """Status, headers but for those every answer has, and the body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | Page = b""

    @property
    def reason(self) -> str:
        """The words of the status line."""
        return REASONS[self.status]

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return self.body.size if isinstance(self.body, Page) else len(self.body)


class Route(NamedTuple):
    """A path's answer. One that takes work is made in a thread, and counts as a scrape in flight."""

    answer: Callable[[Request], Answer]
    methods: tuple[str, ...] = _READ
    work: bool = False


Application = Mapping[str, Route]
"""Path to route."""


def text(status: int, body: str = "", *headers: tuple[str, str]) -> Answer:
    """A line of plain text; without `body` the words of the status."""
    line = (body or REASONS[status]) + "\n"
    return Answer(status, [("Content-Type", "text/plain; charset=utf-8"), *headers], line.encode())


def application(
    render: Render,
    telemetry_path: str,
    vcpus: Callable[[], bytes] | None = None,
    *,
    page: Overview | None = None,
    reload: Reload | None = None,
) -> Application:
    """Every path there is. `vcpus` makes the JSON document of /-/vcpus, `page` the page at /.

    Without `reload` reloading is forbidden.
    """

    def metrics(request: Request) -> Answer:
        page = render(request.accept, request.accept_encoding)
        return Answer(200, page.headers, page)

    app = {
        telemetry_path: Route(metrics, work=True),
        "/-/healthy": _constant(text(200, "Healthy")),
        "/-/reload": Route(lambda _: _reload(reload), _CHANGE, work=reload is not None),
    }
    if vcpus:
        app[document.PATH] = Route(lambda _: Answer(200, [("Content-Type", "application/json")], vcpus()), work=True)
    if page:
        app["/"] = Route(lambda _: Answer(200, overview.HEADERS, page.page()), work=True)
        app[overview.PATH] = Route(lambda _: Answer(200, overview.HEADERS, page.fragment()), work=True)
    return app


def route(app: Application, request: Request) -> Route:
    """The route of a request, which may be one that refuses it."""
    found = app.get(request.path)
    if found is None:
        return _constant(text(404))
    if request.method not in found.methods:
        return _constant(text(405, "", ("Allow", ", ".join(found.methods))))
    return found


def answer(found: Route, request: Request) -> Answer:
    """The route's answer. Raises nothing: where it fails, one request does, and the log says why."""
    try:
        return found.answer(request)
    except Exception as error:  # a defect of ours
        event(log, "error", "a page could not be made", path=request.path, err=error)
        return text(500)


def _constant(made: Answer) -> Route:
    return Route(lambda _: made)


def _reload(reload: Reload | None) -> Answer:
    if reload is None:  # the words of Prometheus
        return text(403, "Lifecycle API is not enabled.")
    wrong = reload()
    return text(500, f"failed to reload config: {wrong}") if wrong else text(200)
