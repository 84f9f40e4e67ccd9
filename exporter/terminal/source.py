"""Where `top` has its readings from: programs of its own, or an exporter that runs already."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from exporter.collect.collector import Collector
from exporter.config.options import Config
from exporter.config.values import host_port
from exporter.kernel import host, launcher, program
from exporter.naming.lookup import Lookup
from exporter.naming.reasons import ReasonNames
from exporter.naming.vcpu import nameable
from exporter.readings import reading as document
from exporter.readings.reading import DocumentError, Reading
from exporter.terminal.address import Address

_DEFAULT_PORT = 9939
_FOR_EVER_NS = 1 << 62
_SETTLE_SECONDS = 0.25
_ANSWER_SECONDS = 10.0
_MAX_BYTES = 1 << 28
"""Of an answer: some ten times the document of 5,000 vCPUs."""

_BUSY = {
    http.client.TOO_MANY_REQUESTS: "asked more often than its rate limit allows",
    http.client.SERVICE_UNAVAILABLE: "too many scrapes at the same time (web.max_requests)",
}
_ALL_ADDRESSES = ("", "0.0.0.0", "::")  # noqa: S104 - what it means is what is looked for


class SourceError(Exception):
    """There is no reading; one line for the operator."""


class Source(Protocol):
    """Gives readings, all of one clock."""

    name: str
    """For a human: what is read."""

    poll_seconds: float
    """How long a vCPU that ended may wait for the next reading; then its last counts could be lost."""

    remote: bool
    """Another program answers: it may take long, or for ever."""

    first: Reading
    """What the run is counted from."""

    def read(self) -> Reading:
        """A reading of now. Raises SourceError."""

    def close(self) -> None:
        """Free what it holds."""


class OwnSource:
    """Programs of our own, attached for as long as this lives. It needs the privileges of `serve`, and no lock file.

    Raises SourceError.
    """

    name = "own BPF programs"
    poll_seconds, remote = 1.0, False

    def __init__(self, config: Config, *, proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> None:
        try:
            formats = host.read_formats(sysfs)
            self._loaded = launcher.load(host.request(config, formats.kvm_exit, attach=True))
        except program.LoadError as error:
            raise SourceError(error.explained()) from error
        self.first = document.nothing(time.monotonic_ns())
        self._reasons = ReasonNames(formats.kvm_exit, formats.kvm_userspace_exit)
        self._vcpu_ids = "vcpu_id" in formats.kvm_exit.fields
        self._lookup = Lookup(proc)
        self._collector = Collector(self._loaded, time.monotonic_ns, _FOR_EVER_NS)

    def read(self) -> Reading:
        """Collect."""
        try:
            snapshot = self._collector.collect()
        except (OSError, ValueError) as error:
            raise SourceError(f"cannot read the maps: {error}") from error
        for record in snapshot.vcpus:
            if nameable(record, vcpu_ids=self._vcpu_ids):
                self._lookup.submit(record.key, record.comm, record.vcpu_id)
        self._lookup.forget([record.key for record in snapshot.vanished])
        self._lookup.wait_known(_SETTLE_SECONDS)
        return document.reading(
            snapshot, self._lookup.get, self._reasons.lookup, since_ns=self.first.since_ns, replay=False
        )

    def close(self) -> None:
        """Detach."""
        self._collector.close()
        self._loaded.close()
        self._lookup.close()


class ExporterSource:
    """An exporter's /-/vcpus. Raises SourceError where the first reading fails."""

    poll_seconds, remote = 5.0, True

    def __init__(self, address: Address, answer_seconds: float = _ANSWER_SECONDS) -> None:
        self._address, self._seconds = address, answer_seconds
        self.first = self.read()
        self.name = f"the exporter at {self._address}" + (" (a replay)" if self.first.replay else "")

    def read(self) -> Reading:
        """Ask it."""
        try:
            reading = document.decode(self._get())
        except DocumentError as error:
            raise SourceError(f"{self._address} is no kvm-exit-exporter of this version: {error}") from error
        if not reading.since_ns:
            raise SourceError(f"the exporter at {self._address} counts nothing: it waits for KVM, or its log says why")
        return reading

    def _get(self) -> bytes:
        # http.client asks no proxy and follows no redirect: the numbers are of the host that was named.
        connection = http.client.HTTPConnection(self._address.host, self._address.port, timeout=self._seconds)
        try:
            connection.connect()
            connection.sock = _TimedSocket(connection.sock, self._seconds)
            connection.request("GET", self._address.path + document.PATH)
            answer = connection.getresponse()
            body = answer.read(_MAX_BYTES + 1) if answer.status == http.client.OK else b""
        except socket.timeout as error:
            raise SourceError(f"no whole answer from {self._address} within {self._seconds:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SourceError(f"no answer from {self._address}: {why}") from error
        finally:
            connection.close()
        if answer.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise SourceError(f"{self._address} wants a password, which top does not send: use --source own")
        if answer.status in _BUSY:
            raise SourceError(f"{self._address} is busy: it answers {answer.status}, {_BUSY[answer.status]}")
        if answer.status != http.client.OK:
            what = f"it answers {answer.status} to {document.PATH}"
            raise SourceError(f"{self._address} is no kvm-exit-exporter of this version: {what}")
        if len(body) > _MAX_BYTES:
            raise SourceError(f"{self._address} is no kvm-exit-exporter: its answer has no end")
        return body

    def close(self) -> None:
        """Nothing is held."""


class _TimedSocket(socket.socket):
    """A connection that receives for so many seconds altogether: a timeout alone is one of each recv()."""

    def __init__(self, connected: socket.socket, seconds: float) -> None:
        super().__init__(fileno=connected.detach())
        self.settimeout(seconds)
        self._deadline = time.monotonic() + seconds

    def recv_into(self, *arguments: Any) -> int:
        """As a socket's, until the deadline."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout
        self.settimeout(left)
        return super().recv_into(*arguments)


def default_address(config: Config) -> Address:
    """Where the exporter of this configuration listens, as this host reaches it."""
    name, port = "", _DEFAULT_PORT
    for address in reversed(config.web.listen_address):  # the first one that has a host and a port
        with contextlib.suppress(ValueError):
            name, port = host_port(address)
    return Address("localhost" if name in _ALL_ADDRESSES else name, port)


def choose(
    kind: str, address: Address, own: Callable[[], Source], exporter: Callable[[Address], Source] = ExporterSource
) -> tuple[Source, str]:
    """The source and one line that says which it is, and why. Raises SourceError.

    `auto` takes the exporter if one answers at `address` that counts this host's exits: that costs the host nothing and
    needs no privilege. A replay is not this host.
    """
    counting = "counting with own BPF programs"
    if kind == "exporter":
        source = exporter(address)
        return source, f"reading {source.name}"
    if kind == "own":
        return own(), counting
    try:
        source = exporter(address)
    except SourceError as error:
        why = str(error)
    else:
        if not source.first.replay:
            return source, f"reading {source.name}, which runs already (--source own: programs of top's own)"
        why = f"{source.name} counts nothing of this host"
    try:
        return own(), f"{counting}: {why}"
    except SourceError as error:
        raise SourceError(f"{error} ({why})") from error
