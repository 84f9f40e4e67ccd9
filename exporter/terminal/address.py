"""Parses the URL of an exporter, and writes it again."""

from __future__ import annotations

import urllib.parse
from typing import NamedTuple

from exporter.readings.document import PATH

_HTTP_PORT = 80


class Address(NamedTuple):
    """Where an exporter is. `path` is the prefix of its pages behind a reverse proxy, usually empty."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        """The URL."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}{self.path}"


def parse(url: str) -> Address:
    """Return the address in a URL. Raises ValueError, with an explanation, for a URL that is not http://HOST:PORT/PATH."""
    parts = urllib.parse.urlsplit(url)
    host, port, path = parts.hostname, parts.port, parts.path.rstrip("/")
    if parts.scheme != "http":
        raise ValueError("only http:// is supported (no TLS, no unix socket); or use --source own")
    # urlsplit() drops line feeds and tabs. A path in a request line is ASCII without blanks.
    sendable = url.isprintable() and " " not in url and path.isascii()
    if not host or not sendable or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"allowed is http://HOST:PORT, and a path of ASCII before {PATH}")
    if port == 0:
        raise ValueError("port 0 is no port to connect to")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("the host is no valid name: each part between dots has 1 to 63 characters") from None
    return Address(host, _HTTP_PORT if port is None else port, path)
