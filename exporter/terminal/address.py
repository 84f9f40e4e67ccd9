"""The URL of an exporter, in its parts."""

from __future__ import annotations

import http.client
import urllib.parse
from typing import NamedTuple

from exporter.readings import reading as document


class Address(NamedTuple):
    """Where an exporter is: `path` stands before those that it serves, mostly empty."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        """The URL."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}{self.path}"


def parse(url: str) -> Address:
    """An URL of http. Raises ValueError with what is wrong."""
    parts = urllib.parse.urlsplit(url)
    host, port, path = parts.hostname, parts.port, parts.path.rstrip("/")
    if parts.scheme != "http":
        raise ValueError("only http:// is read (no TLS, no unix socket); or use --source own")
    # urlsplit() drops line feeds and tabs; what goes into a request line is ASCII without blanks.
    sendable = url.isprintable() and " " not in url and path.isascii()
    if not host or not sendable or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"allowed is http://HOST:PORT, and a path of ASCII before {document.PATH}")
    if port == 0:
        raise ValueError("nobody listens on port 0")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("its host is no name: between two dots are 1 to 63 characters") from None
    return Address(host, http.client.HTTP_PORT if port is None else port, path)
