"""The sources of `top`: BPF programs that `top` attaches, or an exporter that already runs."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from exporter.collect.collector import Collector
from exporter.config.options import Config
from exporter.config.values import LOCAL_SOCKET, host_port
from exporter.kernel import host, launcher, privileges, program
from exporter.kernel.clock import bpf_clock
from exporter.naming.lookup import Lookup
from exporter.naming.reasons import ReasonNames
from exporter.readings import document, reading
from exporter.readings.document import DocumentError
from exporter.readings.observer import Observer
from exporter.readings.reading import Reading
from exporter.terminal import client
from exporter.terminal.address import Address, of_socket
from exporter.terminal.client import Credentials

_DEFAULT_PORT = 9939
_NO_END_NS = 1 << 62
_SETTLE_SECONDS = 0.25
"""Longest wait for the names of new VMs in a reading."""
_ANSWER_SECONDS = 10.0
_MAX_BYTES = 1 << 26
"""Largest answer: some three times the document of 5,000 vCPUs."""
_RUN = Path("/run/kvm-exit-exporter")
_NO_CREDENTIALS = Credentials()

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

    def __init__(
        self, address: Address, answer_seconds: float = _ANSWER_SECONDS, access: Credentials = _NO_CREDENTIALS
    ) -> None:
        self._address, self._seconds, self._access = address, answer_seconds, access
        self.uid: int | None = None
        """The user whose process answered; None if it is on another host or unknown."""
        began = time.monotonic()
        self.first = self.read()
        self.first_seconds = time.monotonic() - began
        self.name = f"the exporter at {self._address}" + (" (a replay)" if self.first.replay else "")
        user = f" (a process of user {privileges.name_of(self.uid)})" if self.uid is not None else ""
        self.described = self.name + user
        """The name, and whose process answered."""

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
        try:
            answer = client.get(
                *(self._address, document.PATH, self._access), seconds=self._seconds, max_bytes=_MAX_BYTES
            )
        except socket.timeout as error:
            raise SourceError(f"no complete answer from {self._address} within {self._seconds:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SourceError(f"no answer from {self._address}: {why}") from error
        self.uid = answer.uid
        if answer.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            remedy = "the user or password is wrong" if self._access.authorization else "name a --login-file"
            raise SourceError(f"{self._address} requires a password: {remedy}, or use --source own")
        if answer.status in _BUSY:
            raise SourceError(f"{self._address} is busy: it answers {answer.status}, {_BUSY[answer.status]}")
        if answer.status != http.client.OK:
            why = f"it answers {answer.status} to {document.PATH}"
            raise SourceError(f"{self._address} is not a kvm-exit-exporter of this version: {why}")
        if len(answer.body) > _MAX_BYTES:
            why = f"its answer is longer than {_MAX_BYTES >> 20} MiB"
            raise SourceError(f"{self._address} is not a kvm-exit-exporter: {why}")
        return answer.body

    def close(self) -> None:
        """Do nothing: each request opens and closes a connection."""


def default_addresses(config: Config, folder: Path = _RUN) -> list[Address]:
    """Return the addresses at which this host reaches an exporter with this configuration, the preferred one first.

    Only the exporter's user can make a socket in its folder. Every local user can listen on a free port.
    """
    name, port = "", _DEFAULT_PORT
    for address in reversed(config.web.listen_address):  # the first address that has a host and a port
        with contextlib.suppress(ValueError):
            name, port = host_port(address)
    tcp = Address("localhost" if name in _ALL_ADDRESSES else name, port)
    own = folder / LOCAL_SOCKET
    return [of_socket(str(own)), tcp] if os.access(own, os.R_OK | os.W_OK) else [tcp]


def trusted_users(config: Config) -> set[int]:
    """Return the uids whose processes may answer for this host's exporter: root's, its user's, and this process's."""
    account = privileges.account_or_nobody(config.run_as)
    return {0, os.geteuid(), *([account.uid] if account else [])}


def choose(
    kind: str,
    addresses: Sequence[Address],
    own: Callable[[], Source],
    exporter: Callable[[Address], ExporterSource],
    trusted: Collection[int] | None,
) -> tuple[Source, str]:
    """The source of `kind`, and a line that says which source it is and why. Raises SourceError.

    `kind` is exporter, own or auto. `exporter` uses the first address that answers. `auto` does so too, if the answer
    is from a process of a `trusted` user (None: of any user) and counts this host's exits. Then `top` adds no cost to
    exits and needs no privilege. A replay does not count this host's exits.
    """
    counting = "counting with own BPF programs"
    if kind == "own":
        return own(), counting
    try:
        source = _first(addresses, exporter)
    except SourceError as error:
        if kind == "exporter":
            raise
        why = str(error)
    else:
        if kind == "exporter":
            return source, f"reading {source.described}"
        if trusted is not None and source.uid not in trusted:
            why = f"{source.described} is not this host's exporter"
        elif not source.first.replay:
            return source, f"reading {source.described}, which runs already (--source own: count with own BPF programs)"
        else:
            why = f"{source.described} does not count this host's exits"
    try:
        return own(), f"{counting}: {why}"
    except SourceError as error:
        raise SourceError(f"{error} ({why})") from error


def _first(addresses: Sequence[Address], exporter: Callable[[Address], ExporterSource]) -> ExporterSource:
    for address in addresses[:-1]:
        with contextlib.suppress(SourceError):
            return exporter(address)
    return exporter(addresses[-1])
