"""Finds out, from another thread, whether an event loop hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable

from exporter.common.logs import event

log = logging.getLogger(__name__)

_HANG_SECONDS = 10.0
"""Limit of the time since the first check that found the callback overdue.

The worst flood delays a callback by less than 2 s.
"""


class Heartbeat:
    """The heartbeat of one event loop. One thread must call beats() regularly. `clock` is monotonic, in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._callback_ran = threading.Event()
        self._missed_since: float | None = None
        """The time of the first check that found the callback overdue."""
        self._logged = False
        self._schedule_callback()

    def beats(self) -> bool:
        """Return False if the loop hangs. A hang is logged once.

        A single missed callback does not prove a hang: the whole process may have been stopped since the last check.
        """
        now = self._clock()
        if self._callback_ran.is_set():
            self._missed_since, self._logged = None, False
            self._schedule_callback()
        elif self._missed_since is None:
            self._missed_since = now
        elif now - self._missed_since >= _HANG_SECONDS:
            if not self._logged:
                event(log, "error", "the web server hangs")
            self._logged = True
            return False
        return True

    def _schedule_callback(self) -> None:
        self._callback_ran.clear()
        with contextlib.suppress(RuntimeError):  # the loop is closed, and runs no callback any more
            self._loop.call_soon_threadsafe(self._callback_ran.set)
