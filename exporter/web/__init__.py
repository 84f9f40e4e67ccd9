"""The HTTP side: which path answers what, and the sockets, TLS, users and limits around it."""

from exporter.web.app import Answer, Application, Reload, Request, Route, application, text
from exporter.web.listen import ListenError
from exporter.web.server import Web
from exporter.web.watched import Watched

__all__ = [
    "Answer",
    "Application",
    "ListenError",
    "Reload",
    "Request",
    "Route",
    "Watched",
    "Web",
    "application",
    "text",
]
