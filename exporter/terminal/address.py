"""Parses the URL of an exporter, and writes it again."""

from __future__ import annotations

import urllib.parse
from typing import NamedTuple

from exporter.config.values import UNIX_PREFIX, listen_address
from exporter.readings.document import PATH

_PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """Where an exporter is. `path` is the prefix of its pages behind a reverse proxy, usually empty."""

    host: str
    port: int
    path: str = ""
    scheme: str = "http"
    socket: str = ""
    """The path of a unix socket; "" for TCP."""

    def __str__(self) -> str:
        """The URL."""
        if self.socket:
            return UNIX_PREFIX + self.socket
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}{self.path}"


def of_socket(path: str) -> Address:
    """Return the address of a unix socket."""
    return Address("localhost", 0, socket=path)


def parse(url: str) -> Address:
    """Return the address in a URL.

    Raises ValueError, with an explanation, for a URL that is not http://HOST:PORT/PATH, the same with https, or
    unix:/PATH.
    """
    if url.startswith(UNIX_PREFIX):
        return of_socket(listen_address(url)[len(UNIX_PREFIX) :])
    parts = urllib.parse.urlsplit(url)
    host, port, path = parts.hostname, parts.port, parts.path.rstrip("/")
    if parts.scheme not in _PORTS:
        raise ValueError("only http://, https:// and unix:/ are supported; or use --source own")
    # urlsplit() drops line feeds and tabs. A path in a request line is ASCII without blanks.
    sendable = url.isprintable() and " " not in url and path.isascii()
    if not host or not sendable or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"allowed is {parts.scheme}://HOST:PORT, and a path of ASCII before {PATH}")
    if port == 0:
        raise ValueError("port 0 is no port to connect to")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("the host is no valid name: each part between dots has 1 to 63 characters") from None
    return Address(host, _PORTS[parts.scheme] if port is None else port, path, parts.scheme)
