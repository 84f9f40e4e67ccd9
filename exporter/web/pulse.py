"""Whether an event loop has its turns, asked from another thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable

from exporter.common.logs import event

log = logging.getLogger(__name__)

_HANGS_SECONDS = 10.0
"""Between two looks that found no turn; the worst flood takes less than two."""


class Pulse:
    """Of one loop, for one thread that asks again and again. `clock` is monotonic, in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._turn = threading.Event()
        self._missed: float | None = None
        """When a look first found that the turn asked for had not come."""
        self._said = False
        self._ask()

    def beats(self) -> bool:
        """False if a turn does not come for long, which is logged once.

        A single look proves nothing: the whole process may have been stopped since it asked.
        """
        now = self._clock()
        if self._turn.is_set():
            self._missed, self._said = None, False
            self._ask()
        elif self._missed is None:
            self._missed = now
        elif now - self._missed >= _HANGS_SECONDS:
            if not self._said:
                event(log, "error", "the web server hangs")
            self._said = True
            return False
        return True

    def _ask(self) -> None:
        self._turn.clear()
        with contextlib.suppress(RuntimeError):  # it has ended, and has no turn any more
            self._loop.call_soon_threadsafe(self._turn.set)
