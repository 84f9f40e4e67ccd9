"""The web configuration in force. A thread reads it again when its files change."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from exporter.common.files import Stamp, stamp
from exporter.common.logs import event
from exporter.config.options import ConfigError
from exporter.web.toolkit import Settings, WebConfigFile

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
"""Time between two checks of the files for changes."""


class WatchedSettings:
    """The settings in force, which are read again when the file or a file that it names changes.

    Wrong new settings are logged once, and the old settings stay in force.

    The old settings also stay if the new ones lack TLS, the users or a check of client certificates. A file that is
    only partly written must not admit every client. Such a change requires a restart.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read the file, if there is one. Raises ConfigError."""
        self.current = Settings()
        self._path = path.absolute() if path else None
        self._stamps: dict[Path, Stamp] = {}
        self._stop = threading.Event()
        if self._path:
            file = WebConfigFile(self._path)
            self.current = file.settings()
            self._stamps = file.stamps

    @property
    def files(self) -> list[Path]:
        """The files that are read again when they change."""
        return list(self._stamps)

    def watch(self) -> None:
        """Start a thread that checks the files every second, until close().

        A file system that hangs blocks only this thread. The process has dropped its privileges by now: a file that it
        can no longer read is logged here, once.
        """
        if self._path:
            for file in self._stamps:
                if not os.access(file, os.R_OK):
                    event(
                        log,
                        "warn",
                        "a file of the web configuration cannot be read again, a change to it takes a restart",
                        file=file,
                        remedy="let the exporter's user read the file and enter its folder",
                    )
                    self._stamps[file] = stamp(file)  # stat() may fail now, too; this must not count as a change
            # A daemon thread that nobody joins: the thread may hang until the storage works again.
            threading.Thread(target=self._poll, name="web-files", daemon=True).start()

    def close(self) -> None:
        """Stop checking the files."""
        self._stop.set()

    def check_files(self) -> None:
        """Read the settings again if one of the files has changed. Raises nothing."""
        if self._path and any(stamp(file) != seen for file, seen in self._stamps.items()):
            self._read_again(self._path)

    def _poll(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self.check_files()

    def _read_again(self, path: Path) -> None:
        file = WebConfigFile(path)
        try:
            settings = file.settings()
        except ConfigError as error:
            for problem in error.problems:
                event(log, "error", "the changed web configuration is wrong, the old one stays", err=problem)
        except Exception as error:  # a defect of the exporter: the old settings stay in force
            event(log, "error", "the web configuration could not be read again", err=error)
        else:
            weaker = _weaker_keys(self.current, settings)
            if weaker:
                event(
                    log,
                    "warn",
                    "the web configuration would let more clients in, the old one stays until a restart",
                    file=path,
                    weaker=", ".join(weaker),
                )
            else:
                self.current = settings
                event(log, "info", "web configuration read", file=path)
        self._stamps = file.stamps


def _weaker_keys(old: Settings, new: Settings) -> list[str]:
    """Return the keys whose change would admit clients that are refused now."""
    keys = [
        key
        for key, before, after in (
            ("tls_server_config", old.tls, new.tls),
            ("tls_server_config.client_allowed_sans", old.client_sans, new.client_sans),
            ("basic_auth_users", old.users, new.users),
        )
        if before and not after
    ]
    if old.tls and new.tls and new.tls.verify_mode < old.tls.verify_mode:
        keys.append("tls_server_config.client_auth_type")
    return keys
