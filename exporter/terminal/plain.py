"""`top` without a live view: one table of the whole run, or a table every interval."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from exporter.common.signals import Stop
from exporter.readings.reading import Reading
from exporter.terminal import report
from exporter.terminal.output import Output
from exporter.terminal.session import Session

_ROUNDING_SECONDS = 1e-4


class Plain:
    """Prints a session. The methods that print raise OSError if `out` cannot be written."""

    def __init__(self, session: Session, stop: Stop, output: Output, out: TextIO, say: Callable[[str], None]) -> None:
        """`out` gets the tables; `say` prints lines that are not part of them."""
        self._session = session
        self._stop = stop
        self._output = output
        self._out = out
        self._say = say
        self._printed = 0

    def wait_until(self, end: float) -> None:
        """Sleep until `end` on the monotonic clock or until a signal. Meanwhile, read the source often enough."""
        session, stop = self._session, self._stop
        while not stop.asked and (now := time.monotonic()) < end:
            if now >= session.next_poll:
                session.read()
            stop.wait(min(end, session.next_poll) - now)

    def print_intervals(self, interval: float) -> None:
        """Print a table every `interval` seconds until the run ends.

        The last interval may be shorter, so that the tables add up to the whole run.
        """
        session = self._session
        before, due, number = session.first, session.started, 0
        while not self._stop.asked and due < session.end:
            number += 1
            due = session.started + number * interval
            if due > session.end - _ROUNDING_SECONDS:
                due = session.end
            self.wait_until(due)
            now = session.read()
            self._print(before, now, heading=True)
            before = now

    def print_run(self) -> None:
        """Read the source once more, and print the table of the whole run."""
        self._session.read()
        self._print(self._session.first, self._session.last)

    def _print(self, then: Reading, now: Reading, *, heading: bool = False) -> None:
        text = report.text(self._output, self._session.name, then, now, first=not self._printed, heading=heading)
        self._printed += 1
        self._out.write(text)
        self._out.flush()
        held = report.held(self._output, then, now)
        if held:
            self._say(held)
