"""How the daemon comes by an attached program: from the process before it, by systemd's store, or from the loader."""

from __future__ import annotations

import logging
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from exporter.common.logs import event
from exporter.config.options import Config
from exporter.kernel import host
from exporter.kernel.launcher import Launcher
from exporter.kernel.program import Loaded
from exporter.service import handover
from exporter.service.ledger import EMPTY_STATE, Ledger, LedgerError, LedgerState
from exporter.service.systemd import Systemd

log = logging.getLogger(__name__)


class Attached(NamedTuple):
    """A program that counts, and what an earlier process knew of it."""

    loaded: Loaded
    since: handover.Since
    ledger: Ledger | None
    """To be kept; None where nobody would pass it on."""
    before: LedgerState
    kept: bool
    """It was attached already: its counters go on."""


class ProgramSource:
    """On the way to it. Only prepare() needs privileges."""

    def __init__(self, systemd: Systemd) -> None:
        self._systemd = systemd
        self._left = handover.StoredDescriptors.of(systemd.passed)
        self._found: tuple[Loaded, handover.Since, Ledger] | None = None
        self._loader: Launcher | None = None
        self.sockets: list[int] = []
        """What systemd passed besides: sockets that listen."""
        for name, fd in systemd.passed:
            if name in self._left.names:
                continue
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                self.sockets.append(fd)
            else:  # of another version of this service, say
                event(log, "warn", "a descriptor that was passed is not understood, and is let go", name=name)
                os.close(fd)
                systemd.forget(name)

    def prepare(self, config: Config, sysfs: Path) -> None:
        """Take over what was left attached; where there is nothing, or it does not fit, start the loader."""
        self._config = config
        if self._left.names:
            try:
                self._found = self._left.take(config)
            except handover.HandoverError as error:
                event(
                    log,
                    "warn",
                    "counting anew: the program of before the restart is not taken over",
                    reason=str(error),
                )
                self._left.discard(self._systemd)
        if not self._found:
            self._loader = Launcher(host.attach_request(config, sysfs))

    @property
    def waiting(self) -> bool:
        """True while the loader waits for KVM."""
        return bool(self._loader and self._loader.waiting)

    def receive(self, timeout: float) -> Attached | None:
        """Return the program, or None if it is not there after so many seconds. Raises LoadError."""
        if self._found:
            (loaded, since, ledger), self._found = self._found, None
            self._left.close()
            return Attached(loaded, since, ledger, _written(ledger), kept=True)
        assert self._loader, "prepare() comes first"
        built = self._loader.receive(timeout)
        if not built:
            return None
        since = handover.Since(time.time(), time.monotonic_ns())
        # At once: from here on nothing is lost by a kill.
        kept = handover.keep(self._systemd, built, self._config, since) if self._systemd else None
        self._left = handover.StoredDescriptors(handover.names(built), {})  # what discard() would be about now
        return Attached(built, since, kept, EMPTY_STATE, kept=False)

    def discard(self) -> None:
        """Have the next start begin anew."""
        self._left.discard(self._systemd)

    def close(self) -> None:
        """End the loader, and free what nobody took."""
        if self._loader:
            self._loader.close()
        if self._found:
            self._found[0].close()
            self._found[2].close()
        self._left.close()


def _written(ledger: Ledger) -> LedgerState:
    try:
        return ledger.read()
    except LedgerError as error:
        event(log, "warn", "ended vCPUs are no longer served", reason=str(error))
        return EMPTY_STATE
