"""Holds the configuration in force, and replaces it in a reload."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from exporter.common.logs import event
from exporter.config import load
from exporter.config.options import Config, ConfigError
from exporter.metrics.own import ConfigStatus

log = logging.getLogger(__name__)

_MAX_LOGGED = 10
"""How many errors of a refused configuration are logged. `serve --config.check` prints all of them."""


class Reloader:
    """Reads the configuration again and puts it in force."""

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config] | None,
        apply: Callable[[Config], None],
        announce: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`reread` raises ConfigError. `apply` puts a configuration in force.

        `announce` makes a context manager that is entered during a reload.
        """
        self.config = config
        self.status = ConfigStatus(loaded=time.time())
        self._reread = reread
        self._apply = apply
        self._announce = announce
        self._lock = threading.Lock()

    def reload(self) -> str:
        """Put the new configuration in force, except for options that need a restart. Any thread may call it.

        Returns "", or one line with the error. After an error the old configuration stays in force.
        """
        if not self._reread:
            return "there is no configuration to read again"
        with self._lock, self._announce():
            try:
                config, waiting = load.reloaded(self.config, self._reread())
            except ConfigError as error:
                self.status = ConfigStatus(self.status.loaded, good=False)
                for problem in error.problems[:_MAX_LOGGED]:
                    event(log, "error", "configuration not reloaded, the old one stays in force", problem=problem)
                more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
                return f"{error.problems[0]}{more}"
            self._apply(config)
            self.config, self.status = config, ConfigStatus(loaded=time.time())
            for key in waiting:
                in_force = load.option_text(config, key)
                event(log, "warn", "a changed option waits for a restart", option=key, in_force=in_force)
            event(log, "info", "configuration reloaded")
            return ""
