"""Where the daemon gets its program from: an earlier process through systemd's store, or the loader."""

from __future__ import annotations

import abc
import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from exporter.common.logs import event
from exporter.config.options import Config
from exporter.kernel import host
from exporter.kernel.host import Formats
from exporter.kernel.launcher import Launcher
from exporter.kernel.program import Loaded
from exporter.model.records import CountingSince
from exporter.service import handover
from exporter.service.handover import EarlierProgram, StoredDescriptors
from exporter.service.ledger import EMPTY_STATE, Ledger, LedgerError, LedgerState
from exporter.service.systemd import Systemd

log = logging.getLogger(__name__)


class Attached(NamedTuple):
    """A program that counts, and everything that is needed to read it."""

    loaded: Loaded
    formats: Formats
    since: CountingSince
    clock_ns: Callable[[], int] = time.monotonic_ns
    """The clock of the program's timestamps."""
    vcpu_ids: bool = False
    """True if the program reads the kernel's vcpu_id."""
    ledger: Ledger | None = None
    """None without systemd's descriptor store."""
    before: LedgerState = EMPTY_STATE
    """What an earlier process wrote down."""
    takeover: bool = False
    """True if an earlier process attached the program: its counters go on."""
    recording: Mapping[str, object] = MappingProxyType({})
    """Fields for the log about the recording that is replayed; none for a host."""


class ProgramSource(abc.ABC):
    """A way to get a program. Made while the process is privileged; its methods need no privilege."""

    replay = False
    """True if the program counts the events of a recording."""

    @property
    def waiting(self) -> bool:
        """True while KVM's tracepoints do not exist."""
        return False

    @abc.abstractmethod
    def receive(self, timeout: float) -> Attached | None:
        """Return the program, or None if it is not there after `timeout` seconds. Raises LoadError, OSError."""

    def broken(self) -> str:
        """A few words if the received program gets no more events, else ""."""
        return ""

    @abc.abstractmethod
    def discard(self) -> None:
        """Make the next process begin anew."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free everything that receive() did not return."""


class TakeoverSource(ProgramSource):
    """The program of an earlier process. It counted on while the service restarted."""

    def __init__(self, earlier: EarlierProgram, stored: StoredDescriptors, systemd: Systemd) -> None:
        self._earlier = earlier
        self._received = False
        self._stored = stored
        self._systemd = systemd

    def receive(self, timeout: float) -> Attached:
        """Return the program. Raises LoadError where its tracepoint formats cannot be read."""
        del timeout
        loaded, since, ledger = self._earlier
        attached = _attached(loaded, since, ledger, _state_of(ledger), takeover=True)
        self._received = True
        self._stored.close()
        return attached

    def discard(self) -> None:
        """Make the next process begin anew."""
        self._stored.discard(self._systemd)

    def close(self) -> None:
        """Free the program if nobody received it."""
        if not self._received:
            self._earlier.loaded.close()
            self._earlier.ledger.close()
        self._stored.close()


class LoaderSource(ProgramSource):
    """The loader: a child process with privileges, which compiles, loads and attaches the program."""

    def __init__(self, config: Config, sysfs: Path, systemd: Systemd) -> None:
        """Start the loader. Raises LoadError where it cannot be started."""
        self._systemd = systemd
        self._version: Mapping[str, Any] = handover.version(config, sysfs)
        self._stored = StoredDescriptors(frozenset(), {})
        self._launcher = Launcher(host.host_request(config, sysfs))

    @property
    def waiting(self) -> bool:
        """True while the loader waits for KVM."""
        return self._launcher.waiting

    def receive(self, timeout: float) -> Attached | None:
        """Return the program, or None if it is not there after `timeout` seconds. Raises LoadError, OSError."""
        loaded = self._launcher.receive(timeout)
        if not loaded:
            return None
        since = CountingSince(time.time(), time.monotonic_ns())
        ledger = None
        if self._systemd:  # stored at once: from here on a kill of this process loses nothing
            ledger = handover.store(self._systemd, loaded, self._version, since)
        self._stored = StoredDescriptors(handover.stored_names(loaded), {})
        return _attached(loaded, since, ledger, EMPTY_STATE, takeover=False)

    def discard(self) -> None:
        """Make the next process begin anew."""
        self._stored.discard(self._systemd)

    def close(self) -> None:
        """End the loader."""
        self._launcher.close()


def sort_passed(systemd: Systemd) -> tuple[StoredDescriptors, list[int]]:
    """Sort the descriptors that systemd passed: those of an earlier process, and listening sockets.

    All others are closed, here and in systemd's store.
    """
    stored = StoredDescriptors.of(systemd.passed)
    sockets = []
    for name, fd in systemd.passed:
        if name in stored.names:
            continue
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            sockets.append(fd)
        else:  # from another version of this service, for example
            event(log, "warn", "closing a descriptor from systemd: its name is unknown", name=name)
            os.close(fd)
            systemd.forget(name)
    return stored, sockets


def program_source(config: Config, sysfs: Path, systemd: Systemd, stored: StoredDescriptors) -> ProgramSource:
    """Take over the stored program; where there is none, or it does not fit, start the loader. Raises LoadError."""
    if stored.names:
        try:
            return TakeoverSource(stored.take_over(handover.version(config, sysfs)), stored, systemd)
        except handover.HandoverError as error:
            event(
                log,
                "warn",
                "counting anew: the program from before the restart is not taken over",
                reason=str(error),
            )
            stored.discard(systemd)
    return LoaderSource(config, sysfs, systemd)


def _attached(
    loaded: Loaded, since: CountingSince, ledger: Ledger | None, before: LedgerState, *, takeover: bool
) -> Attached:
    formats = host.parsed(loaded.formats)
    return Attached(
        loaded,
        formats,
        since,
        vcpu_ids=loaded.vcpu_ids,
        ledger=ledger,
        before=before,
        takeover=takeover,
    )


def _state_of(ledger: Ledger) -> LedgerState:
    try:
        return ledger.read()
    except LedgerError as error:
        event(log, "warn", "ended vCPUs are no longer served", reason=str(error))
        return EMPTY_STATE
