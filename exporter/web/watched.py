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

    A new state that is wrong is logged once, and the old one stays in force. So it does where TLS or the users are
    gone from the file: a file that was cut short while it was written must not open the door. That takes a restart.
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
            for what, before, after in (
                ("tls_server_config", self._settings.tls, settings.tls),
                ("basic_auth_users", self._settings.users, settings.users),
            ):
                if before and not after:
                    raise ConfigError(f"{path}: {what} is gone; restart to do without it")
        except ConfigError as error:
            for problem in error.problems:
                event(log, "error", "the web configuration has changed and is wrong, the old one stays", err=problem)
        else:
            self._settings = settings
            event(log, "info", "web configuration read", file=path)
        self._stamps = reading.stamps
