"""The web configuration in force, which follows its files."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from exporter.common.logs import event
from exporter.config.options import ConfigError
from exporter.web.files import Stamp, stamp
from exporter.web.toolkit import Settings, WebConfigFile

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
"""Between two looks at the files."""


class Watched:
    """The settings in force, read again when the file or what it names has changed.

    A new state that is wrong is logged once, and the old one stays in force. So it does where TLS, the users or a check
    of client certificates are gone: a file that was cut short while it was written must not open the door. That takes
    a restart.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read the file, if there is one. Raises ConfigError."""
        self.current = Settings()
        self._path = path.absolute() if path else None
        self._stamps: dict[Path, Stamp] = {}
        self._stop = threading.Event()
        if self._path:
            reading = WebConfigFile(self._path)
            self.current = reading.settings()
            self._stamps = reading.stamps

    def follow(self) -> None:
        """Look at the files every second until close(), in a thread: a file system that hangs holds nobody up.

        Privileges have been dropped by now: what can be read no longer is said here, once.
        """
        if self._path:
            for file in self._stamps:
                if not os.access(file, os.R_OK):
                    event(
                        log,
                        "warn",
                        "a file of the web configuration cannot be read again, a renewal of it takes a restart",
                        file=file,
                        remedy="let the exporter's user read it, and enter its folder",
                    )
                    self._stamps[file] = stamp(file)  # which may be seen no longer either: that is no change
            # A daemon's thread, and never joined: it may hang until the storage is back.
            threading.Thread(target=self._follow, name="web-files", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()

    def look(self) -> None:
        """Read the files again if one of them has changed since. Raises nothing."""
        if self._path and any(stamp(file) != seen for file, seen in self._stamps.items()):
            self._read_again(self._path)

    def _follow(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            self.look()

    def _read_again(self, path: Path) -> None:
        reading = WebConfigFile(path)
        try:
            settings = reading.settings()
        except ConfigError as error:
            for problem in error.problems:
                event(log, "error", "the web configuration has changed and is wrong, the old one stays", err=problem)
        except Exception as error:  # a defect of ours: the old state serves, and the log says why
            event(log, "error", "the web configuration could not be read again", err=error)
        else:
            weaker = _weaker(self.current, settings)
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
        self._stamps = reading.stamps


def _weaker(before: Settings, after: Settings) -> list[str]:
    """The keys by which somebody comes in who was turned away before."""
    tls, sans = "tls_server_config", "tls_server_config.client_allowed_sans"
    checks = ((tls, before.tls, after.tls), (sans, before.client_sans, after.client_sans))
    gone = [key for key, was, now in (*checks, ("basic_auth_users", before.users, after.users)) if was and not now]
    if before.tls and after.tls and after.tls.verify_mode < before.tls.verify_mode:
        gone.append("tls_server_config.client_auth_type")
    return gone
