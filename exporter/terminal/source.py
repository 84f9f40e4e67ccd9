"""The sources of `top`: BPF programs that `top` attaches, or an exporter that already runs."""

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
from exporter.kernel.clock import bpf_clock
from exporter.naming.lookup import Lookup
from exporter.naming.reasons import ReasonNames
from exporter.readings import document, reading
from exporter.readings.document import DocumentError
from exporter.readings.observer import Observer
from exporter.readings.reading import Reading
from exporter.terminal.address import Address

_DEFAULT_PORT = 9939
_NO_END_NS = 1 << 62
_SETTLE_SECONDS = 0.25
"""Longest wait for the names of new VMs in a reading."""
_ANSWER_SECONDS = 10.0
_MAX_BYTES = 1 << 28
"""Largest answer: some ten times the document of 5,000 vCPUs."""

_BUSY = {
    http.client.TOO_MANY_REQUESTS: "asked more often than its rate limit allows",
    http.client.SERVICE_UNAVAILABLE: "too many scrapes at the same time (web.max_requests)",
}
_ALL_ADDRESSES = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


class SourceError(Exception):
    """The source cannot be read. The message is one line for the operator."""


class Source(Protocol):
    """Makes readings. The times of all readings are on the same clock."""

    name: str
    """Name of the source, for the operator."""

    poll_seconds: float
    """Longest time between two readings. If it were longer, the last counts of ended vCPUs could be lost."""

    remote: bool
    """True if another program answers. A reading may then take long, or never arrive."""

    first: Reading
    """The reading at the start of the run."""

    first_seconds: float
    """How long the first reading took."""

    def read(self) -> Reading:
        """Make a new reading. Raises SourceError."""

    def close(self) -> None:
        """Free all resources."""


class OwnSource:
    """BPF programs that `top` attaches until close(). They need the privileges of `serve`, but no lock file.

    The constructor raises SourceError.
    """

    name = "own BPF programs"
    poll_seconds, remote = 1.0, False
    first_seconds = 0.0  # nothing is counted yet

    def __init__(self, config: Config, *, proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> None:
        try:
            clock_ns = bpf_clock(proc)
            formats = host.read_formats(sysfs)
            self._loaded = launcher.load(host.host_request(config, sysfs))
        except program.LoadError as error:
            raise SourceError(error.explained()) from error
        self.first = reading.nothing(clock_ns())
        reasons = ReasonNames(formats.kvm_exit, formats.kvm_userspace_exit)
        self._observer = Observer(Lookup(proc), reasons.lookup, vcpu_ids=self._loaded.vcpu_ids)
        self._collector = Collector(self._loaded, clock_ns, _NO_END_NS)

    def read(self) -> Reading:
        """Collect. Raises SourceError."""
        try:
            snapshot = self._collector.collect()
        except (OSError, ValueError) as error:
            raise SourceError(f"cannot read the maps: {error}") from error
        self._observer.look_up(snapshot)
        self._observer.lookup.forget([record.key for record in snapshot.vanished])
        self._observer.lookup.wait_known(_SETTLE_SECONDS)
        return self._observer.reading(snapshot, since_ns=self.first.since_ns, replay=False)

    def close(self) -> None:
        """Detach the programs."""
        self._collector.close()
        self._loaded.close()
        self._observer.lookup.close()


class ExporterSource:
    """The page /-/vcpus of an exporter. The constructor makes the first reading, or raises SourceError."""

    poll_seconds, remote = 5.0, True

    def __init__(self, address: Address, answer_seconds: float = _ANSWER_SECONDS) -> None:
        self._address, self._seconds = address, answer_seconds
        began = time.monotonic()
        self.first = self.read()
        self.first_seconds = time.monotonic() - began
        self.name = f"the exporter at {self._address}" + (" (a replay)" if self.first.replay else "")

    def read(self) -> Reading:
        """Request the page. Raises SourceError."""
        try:
            received = document.decode(self._get())
        except DocumentError as error:
            raise SourceError(f"{self._address} is not a kvm-exit-exporter of this version: {error}") from error
        if not received.since_ns:
            raise SourceError(f"the exporter at {self._address} counts nothing: it waits for KVM, or its log says why")
        return received

    def _get(self) -> bytes:
        # http.client uses no proxy and follows no redirect: the numbers must come from the host in the URL.
        connection = http.client.HTTPConnection(self._address.host, self._address.port, timeout=self._seconds)
        try:
            connection.connect()
            connection.sock = _TimedSocket(connection.sock, self._seconds)
            connection.request("GET", self._address.path + document.PATH)
            answer = connection.getresponse()
            body = answer.read(_MAX_BYTES + 1) if answer.status == http.client.OK else b""
        except socket.timeout as error:
            raise SourceError(f"no complete answer from {self._address} within {self._seconds:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SourceError(f"no answer from {self._address}: {why}") from error
        finally:
            connection.close()
        if answer.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise SourceError(f"{self._address} requires a password, which top cannot send: use --source own")
        if answer.status in _BUSY:
            raise SourceError(f"{self._address} is busy: it answers {answer.status}, {_BUSY[answer.status]}")
        if answer.status != http.client.OK:
            why = f"it answers {answer.status} to {document.PATH}"
            raise SourceError(f"{self._address} is not a kvm-exit-exporter of this version: {why}")
        if len(body) > _MAX_BYTES:
            why = f"its answer is longer than {_MAX_BYTES >> 20} MiB"
            raise SourceError(f"{self._address} is not a kvm-exit-exporter: {why}")
        return body

    def close(self) -> None:
        """Do nothing: each request opens and closes a connection."""


class _TimedSocket(socket.socket):
    """A connection that receives for at most `seconds` in total. A socket's own timeout is for each recv()."""

    def __init__(self, connected: socket.socket, seconds: float) -> None:
        super().__init__(fileno=connected.detach())
        self.settimeout(seconds)
        self._deadline = time.monotonic() + seconds

    def recv_into(self, *arguments: Any) -> int:
        """Receive as a socket does. Raises socket.timeout after the deadline, and OSError."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout
        self.settimeout(left)
        return super().recv_into(*arguments)


def default_address(config: Config) -> Address:
    """Return the address at which this host reaches an exporter with this configuration."""
    name, port = "", _DEFAULT_PORT
    for address in reversed(config.web.listen_address):  # the first address that has a host and a port
        with contextlib.suppress(ValueError):
            name, port = host_port(address)
    return Address("localhost" if name in _ALL_ADDRESSES else name, port)


def choose(
    kind: str, address: Address, own: Callable[[], Source], exporter: Callable[[Address], Source] = ExporterSource
) -> tuple[Source, str]:
    """The source of `kind`, and a line that says which source it is and why. Raises SourceError.

    `kind` is exporter, own or auto. `auto` uses the exporter at `address` if it answers and counts this host's exits.
    Then `top` adds no cost to exits and needs no privilege. A replay does not count this host's exits.
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
            return source, f"reading {source.name}, which runs already (--source own: count with own BPF programs)"
        why = f"{source.name} does not count this host's exits"
    try:
        return own(), f"{counting}: {why}"
    except SourceError as error:
        raise SourceError(f"{error} ({why})") from error
