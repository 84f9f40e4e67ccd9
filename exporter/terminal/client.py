"""Requests one page of an exporter: over TCP, TLS or a unix socket, within limits of time and size."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from exporter.common.files import read_start
from exporter.terminal.address import Address
from exporter.terminal.owner import owner

_MAX_LOGIN = 4096


class CredentialsError(Exception):
    """A file of credentials cannot be used. The message is one line for the operator."""


@dataclass(frozen=True)
class Credentials:
    """How to know the exporter, and how to be known by it."""

    tls: ssl.SSLContext | None = None
    """For https; None means the authorities of the system."""
    authorization: str = ""
    """The value of the header Authorization."""


def credentials(ca: Path | None, certificate: Path | None, login: Path | None) -> Credentials:
    """Read the files: authorities, a certificate with its key, and a line USER:PASSWORD. Raises CredentialsError."""
    reading = ca
    try:
        tls = ssl.create_default_context(cafile=ca) if ca else None
        reading = certificate
        if certificate:
            tls = tls or ssl.create_default_context()
            tls.load_cert_chain(certificate, password=lambda: "")  # OpenSSL would ask for it on the terminal
        reading = login
        text = read_start(login, _MAX_LOGIN).decode().rstrip("\r\n") if login else ":"
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CredentialsError(f"cannot read {reading}: {getattr(error, 'strerror', None) or error}") from error
    if ":" not in text or not text.isprintable():
        raise CredentialsError(f"{login} has no line USER:PASSWORD")
    return Credentials(tls, f"Basic {base64.b64encode(text.encode()).decode()}" if login else "")


class Answer(NamedTuple):
    """A response. The body is empty unless the status is 200."""

    status: int
    body: bytes
    uid: int | None
    """The user whose process answered; None if it is on another host or unknown."""


def get(address: Address, page: str, access: Credentials, *, seconds: float, max_bytes: int) -> Answer:
    """Request a page; `seconds` is the limit for the whole answer. At most `max_bytes` + 1 bytes of it are read.

    Raises socket.timeout, OSError, http.client.HTTPException, ValueError.
    """
    # http.client uses no proxy and follows no redirect: the numbers must come from the host in the URL.
    connection = http.client.HTTPConnection(address.host, address.port, timeout=seconds)
    with contextlib.closing(connection):
        plain = _connect(address, seconds)
        if address.scheme == "https":
            context = access.tls or ssl.create_default_context()
            context.sslsocket_class = _TimedTlsSocket
            used: Any = context.wrap_socket(plain, server_hostname=address.host)
        else:
            used = _TimedSocket(fileno=plain.detach())
        connection.sock = used
        used.begin(seconds)
        connection.request("GET", address.path + page, headers=_headers(access))
        with connection.getresponse() as answer:
            uid = owner(used)  # now: the process has accepted the connection, and may close it after its answer
            body = answer.read(max_bytes + 1) if answer.status == http.client.OK else b""
        return Answer(answer.status, body, uid)


def _connect(address: Address, seconds: float) -> socket.socket:
    if not address.socket:
        return socket.create_connection((address.host, address.port), timeout=seconds)
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(seconds)
        connected.connect(address.socket)
    except BaseException:
        connected.close()
        raise
    return connected


def _headers(access: Credentials) -> dict[str, str]:
    return {"Authorization": access.authorization} if access.authorization else {}


class _Timed:
    """Receives for at most some seconds in total. A socket's own timeout is for each recv()."""

    _deadline = 0.0

    def begin(self, seconds: float) -> None:
        """Start to measure the time."""
        self._deadline = time.monotonic() + seconds
        self.settimeout(seconds)  # type: ignore[attr-defined]

    def recv_into(self, *arguments: Any) -> int:
        """Receive as a socket does. Raises socket.timeout after the deadline, and OSError."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout
        self.settimeout(left)  # type: ignore[attr-defined]
        return super().recv_into(*arguments)  # type: ignore[misc,no-any-return]


class _TimedSocket(_Timed, socket.socket):
    """A plain connection."""


class _TimedTlsSocket(_Timed, ssl.SSLSocket):
    """A connection with TLS."""
