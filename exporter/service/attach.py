"""The daemon gets its program from an earlier process, through systemd's descriptor store, or from the loader."""

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
from exporter.kernel.clock import bpf_clock
from exporter.kernel.exit_check import ExitCheck, Verdict
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
    """A program that counts, and everything that the daemon needs to read its counts."""

    loaded: Loaded
    formats: Formats
    since: CountingSince
    clock_ns: Callable[[], int]
    """The clock of the program's timestamps."""
    vcpu_ids: bool = False
    """True if the program reads the kernel's vcpu_id."""
    ledger: Ledger | None = None
    """None without systemd's descriptor store."""
    before: LedgerState = EMPTY_STATE
    """The state that an earlier process wrote to the ledger."""
    takeover: bool = False
    """True if an earlier process attached the program. The counters of that process go on."""
    recording: Mapping[str, object] = MappingProxyType({})
    """Log fields about the replayed recording. Empty for the events of a host."""


class ProgramSource(abc.ABC):
    """A way to get a program. It is made while the process is privileged. Its methods need no privilege."""

    replay = False
    """True if the program counts the events of a recording."""

    @property
    def waiting(self) -> bool:
        """True while the source waits for KVM, whose tracepoints do not exist yet."""
        return False

    @abc.abstractmethod
    def receive(self, timeout: float) -> Attached | None:
        """Return the program, or None if it is not attached after `timeout` seconds. Raises LoadError, OSError."""

    def broken(self) -> str:
        """Return the reason, in one line, if the counts of the received program can no longer be trusted, else ""."""
        return ""

    @abc.abstractmethod
    def discard(self) -> None:
        """Make the next process start its counts at 0."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free everything except the program that receive() returned."""


class _HostSource(ProgramSource):
    """A program that counts the events of this host."""

    def __init__(self, stored: StoredDescriptors, systemd: Systemd, clock_ns: Callable[[], int]) -> None:
        self._stored = stored
        self._systemd = systemd
        self._clock_ns = clock_ns
        self._check = ExitCheck({})
        """The check of kvm_exit that the loader could not finish."""

    def broken(self) -> str:
        """Return the difference that the check of kvm_exit found, else ""; a finished check ends."""
        if not self._check:
            return ""
        try:
            compared = self._check.read()
        except OSError:  # no memory: the next call tries again
            return ""
        if compared.verdict is Verdict.OPEN:
            return ""
        self._check.close()
        handover.forget_check(self._systemd)
        if compared.verdict is Verdict.AGREES:
            event(log, "info", "kvm_exit checked", exits=compared.agreed)
            return ""
        self.discard()
        return f"{_WRONG_REASONS} ({compared.difference}): start again, and the classic tracepoint is read"

    def discard(self) -> None:
        """Make the next process start its counts at 0."""
        self._stored.discard(self._systemd)


_WRONG_REASONS = "kvm_exit was read from the wrong place"


class TakeoverSource(_HostSource):
    """The program of an earlier process. It went on counting while the service restarted."""

    def __init__(
        self, earlier: EarlierProgram, stored: StoredDescriptors, systemd: Systemd, clock_ns: Callable[[], int]
    ) -> None:
        super().__init__(stored, systemd, clock_ns)
        self._earlier = earlier
        self._received = False

    def receive(self, timeout: float) -> Attached:
        """Return the program."""
        del timeout
        loaded, formats, since, ledger = self._earlier
        attached = Attached(
            *(loaded, formats, since, self._clock_ns, loaded.vcpu_ids),
            ledger=ledger,
            before=_state_of(ledger),
            takeover=True,
        )
        self._received = True
        self._check = loaded.check
        if self._stored.has_rest_of_check:
            handover.forget_check(self._systemd)
        self._stored.close()
        return attached

    def close(self) -> None:
        """Free the program if receive() did not return it."""
        if not self._received:
            self._earlier.loaded.close()
            self._earlier.ledger.close()
        self._stored.close()


class LoaderSource(_HostSource):
    """The loader: a child process with privileges, which compiles, loads and attaches the program."""

    def __init__(self, config: Config, sysfs: Path, systemd: Systemd, clock_ns: Callable[[], int]) -> None:
        """Start the loader. Raises LoadError, and OSError if the C files cannot be read."""
        super().__init__(StoredDescriptors(frozenset(), {}), systemd, clock_ns)
        self._version: Mapping[str, Any] = handover.version(config, sysfs)
        self._launcher = Launcher(host.host_request(config, sysfs))

    @property
    def waiting(self) -> bool:
        """True while the loader waits for KVM."""
        return self._launcher.waiting

    def receive(self, timeout: float) -> Attached | None:
        """Return the program, or None if it is not attached after `timeout` seconds. Raises LoadError, OSError."""
        loaded = self._launcher.receive(timeout)
        if not loaded:
            return None
        formats = host.parsed(loaded.formats)  # before it is stored: the next process would fail in the same way
        since = CountingSince(time.time(), self._clock_ns())
        ledger = None
        if self._systemd:  # stored at once, so that a kill of this process loses no exit
            ledger = handover.store(self._systemd, loaded, self._version, since)
        self._stored = StoredDescriptors(handover.stored_names(loaded), {})
        self._check = loaded.check
        return Attached(loaded, formats, since, self._clock_ns, loaded.vcpu_ids, ledger=ledger)

    def close(self) -> None:
        """End the loader."""
        self._launcher.close()


def sort_passed(systemd: Systemd) -> tuple[StoredDescriptors, list[int]]:
    """Sort the descriptors that systemd passed: the stored ones of an earlier process, and listening sockets.

    All other descriptors are closed, here and in systemd's store.
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


def program_source(
    config: Config, proc: Path, sysfs: Path, systemd: Systemd, stored: StoredDescriptors
) -> ProgramSource:
    """Take over the stored program. Start the loader if there is none or it does not fit. Raises LoadError, OSError."""
    clock_ns = bpf_clock(proc)
    if stored.names:
        try:
            return TakeoverSource(stored.take_over(handover.version(config, sysfs)), stored, systemd, clock_ns)
        except handover.HandoverError as error:
            event(
                log,
                "warn",
                "counting anew: the program from before the restart is not taken over",
                reason=str(error),
            )
            stored.discard(systemd)
    return LoaderSource(config, sysfs, systemd, clock_ns)


def _state_of(ledger: Ledger) -> LedgerState:
    try:
        return ledger.read()
    except LedgerError as error:
        event(log, "warn", "ended vCPUs are no longer served", reason=str(error))
        return EMPTY_STATE


class StartError(Exception):
    """The service cannot start or cannot continue. The message is one line for the operator."""
