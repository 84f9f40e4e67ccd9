"""The paths of the web server, and their answers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Callable

from exporter.metrics.exposition.negotiation import accepts_gzip, choose_format
from exporter.metrics.exposition.page import MetricsPage
from exporter.page.page import HEADERS, PATH, HtmlPage
from exporter.readings import document
from exporter.web.response import WRITE_METHODS, Request, Response, Route, Routes, constant, text_response

Render = Callable[[str, str], MetricsPage]
"""A function that makes the metrics page for the headers Accept and Accept-Encoding."""

RELOAD_SECONDS, RELOAD_BURST = 10, 5
"""Time between two reloads over HTTP, in seconds, and how many may come at once. Each reload writes log lines."""

Reload = Callable[[], str]
"""A function that reloads the configuration. It returns "" or one line with the error."""


def routes(
    render: Render,
    telemetry_path: str,
    vcpus: Callable[[], Sequence[bytes]] | None = None,
    *,
    page: HtmlPage | None = None,
    not_ready: Callable[[], str] | None = None,
    reload: Reload | None = None,
    may_reload: Callable[[], bool] = lambda: True,
) -> Routes:
    """Return all paths. `vcpus` makes the JSON document of /-/vcpus in pieces, and `page` makes the page at /.

    `not_ready` returns "" or why no program is attached: it makes /-/ready. Without `reload`, or while `may_reload`
    returns False, a request to reload is refused.
    """

    def metrics(request: Request) -> Response:
        made = render(request.accept, request.accept_encoding)
        return Response(200, made.headers, made.pieces)

    found = {
        telemetry_path: Route(metrics, in_thread=True, shape=_page_shape),
        "/-/healthy": constant(text_response(200, "Healthy")),
        "/-/reload": Route(lambda _: _reload(reload, may_reload), WRITE_METHODS, in_thread=reload is not None),
    }
    if not_ready:
        found["/-/ready"] = Route(lambda _: _readiness(not_ready()))
    if vcpus:
        json = [("Content-Type", "application/json")]
        found[document.PATH] = Route(lambda _: Response(200, json, vcpus()), in_thread=True)
    if page:
        found["/"] = Route(lambda _: Response(200, HEADERS, [page.page()]), in_thread=True)
        found[PATH] = Route(lambda _: Response(200, HEADERS, [page.fragment()]), in_thread=True)
    return found


def _page_shape(request: Request) -> Hashable:
    """Return everything that a metrics page depends on."""
    return choose_format(request.accept), accepts_gzip(request.accept_encoding)


def _readiness(reason: str) -> Response:
    return text_response(503, f"Not ready: {reason}") if reason else text_response(200, "Ready")


def _reload(reload: Reload | None, may_reload: Callable[[], bool]) -> Response:
    if reload is None:  # Prometheus answers with the same text
        return text_response(403, "Lifecycle API is not enabled.")
    if not may_reload():
        return text_response(429, "Too many reloads", ("Retry-After", str(RELOAD_SECONDS)))
    wrong = reload()
    return text_response(500, f"failed to reload config: {wrong}") if wrong else text_response(200)
