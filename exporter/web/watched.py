"""The web configuration in force, which follows its files."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from exporter.config import ConfigError
from exporter.logs import event
from exporter.web.toolkit import Reading, Settings, Stamp, stamp

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
"""The files are looked at so often at the most, when somebody asks."""


class Watched:
    """The settings in force, read again when the file or what it names has changed.

    A new state that is wrong is logged once, and the old one stays in force. So it does where TLS, the users or a check
    of client certificates are gone: a file that was cut short while it was written must not open the door. That takes
    a restart.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read the file, if there is one. Raises ConfigError."""
        self._path = path.absolute() if path else None
        self._settings = Settings()
        self._stamps: dict[Path, Stamp] = {}
        self._looked = time.monotonic()
        if self._path:
            reading = Reading(self._path)
            self._settings = reading.settings()
            self._stamps = reading.stamps

    def current(self) -> Settings:
        """The settings, of files as they were a second ago at the most. Raises nothing."""
        now = time.monotonic()
        if self._path and now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            if any(stamp(file) != seen for file, seen in self._stamps.items()):
                self._read_again(self._path)
        return self._settings

    def _read_again(self, path: Path) -> None:
        reading = Reading(path)
        try:
            settings = reading.settings()
        except ConfigError as error:
            for problem in error.problems:
                event(log, "error", "the web configuration has changed and is wrong, the old one stays", err=problem)
        else:
            weaker = _weaker(self._settings, settings)
            if weaker:
                event(
                    log,
                    "warn",
                    "the web configuration would let more clients in, the old one stays until a restart",
                    file=path,
                    weaker=", ".join(weaker),
                )
            else:
                self._settings = settings
                event(log, "info", "web configuration read", file=path)
        self._stamps = reading.stamps


def _weaker(before: Settings, after: Settings) -> list[str]:
    """The keys by which somebody comes in who was turned away before."""
    tls, sans = "tls_server_config", "tls_server_config.client_allowed_sans"
    checks = ((tls, before.tls, after.tls), (sans, before.client_sans, after.client_sans))
    gone = [key for key, was, now in (*checks, ("basic_auth_users", before.users, after.users)) if was and not now]
    if before.tls and after.tls and after.tls.verify_mode < before.tls.verify_mode:
        gone.append("tls_server_config.client_auth_type")
    return gone
