"""One run of `top`: reads the source often enough, and keeps the first and the last reading."""

from __future__ import annotations

import math
import threading
import time

from exporter.common.signals import Stop
from exporter.readings.difference import ReadingSpan
from exporter.readings.reading import Reading
from exporter.terminal.source import Source, SourceError

_SLOW_SECONDS = 1.0
"""If an answer takes longer, `trouble` says so."""

_PATIENCE_SECONDS = 0.5
_PATIENCE_TIMES = 4
"""Longest wait for an answer after a signal: half a second, or four times the slowest answer if that is longer."""


class Session:
    """Readings of a source from the start of a run to its end, `duration` seconds later.

    A remote source is read in a thread. So signals and keys work while the source, or a name server, does not answer.
    """

    def __init__(self, source: Source, duration: float | None, stop: Stop) -> None:
        self._source, self._stop = source, stop
        self._run = ReadingSpan(source.first)
        self.name = source.name
        self.started = time.monotonic()
        self.end = math.inf if duration is None else self.started + duration
        self.next_poll = self.started + source.poll_seconds
        self.requested_at = 0.0
        """When the reading that has not arrived yet was requested; 0.0 if there is none."""
        self._answered = threading.Event()
        self._answer: Reading | BaseException = source.first
        self._slowest = source.first_seconds
        self._trouble = ""

    def request(self) -> None:
        """Request a reading, unless one is requested already.

        When the reading arrives, a wait of `stop` ends, and take() returns the reading.
        """
        now = time.monotonic()
        self.next_poll = now + self._source.poll_seconds
        if self.requested_at:
            return
        self.requested_at = now
        if self._source.remote:
            try:
                threading.Thread(target=self._read, daemon=True).start()
                return
            except RuntimeError:  # no thread can be started: read in the present thread
                pass
        self._read()

    def _read(self) -> None:
        try:
            self._answer = self._source.read()
        except BaseException as error:  # take() raises this exception in the caller's thread
            self._answer = error
        self._answered.set()
        self._stop.wake()

    def take(self) -> Reading | None:
        """The requested reading with all ended vCPUs; None if it has not arrived, or failed with SourceError.

        Raises every other exception that the source raised.
        """
        if not self._answered.is_set():
            return None
        answer, took = self._answer, time.monotonic() - self.requested_at
        self._answered.clear()
        self.requested_at = 0.0
        if isinstance(answer, SourceError):
            self._trouble = str(answer)
            return None
        if isinstance(answer, BaseException):
            raise answer
        self._trouble, self._slowest = "", max(self._slowest, took)
        return self._run.add(answer)

    def read(self) -> Reading:
        """Return a new reading with all ended vCPUs. If that fails or `stop` interrupts it, return the last reading."""
        self._finish()  # a reading that was requested earlier would be too old
        if not self.requested_at:
            self.request()
            self._finish()
        return self.last

    def _finish(self) -> None:
        while self.requested_at and not self._answered.is_set():
            waited = time.monotonic() - self.requested_at
            patience = max(_PATIENCE_SECONDS, _PATIENCE_TIMES * self._slowest)
            if not self._stop.asked:
                self._stop.wait(math.inf)
            elif waited < patience:
                self._answered.wait(patience - waited)
            else:
                self._trouble = self._trouble or f"no answer for {waited:.1f} s"
                return
        self.take()

    @property
    def trouble(self) -> str:
        """The reason why the source returned no newer reading; "" if there is no problem."""
        waited = time.monotonic() - self.requested_at if self.requested_at else 0.0
        return self._trouble or (f"no answer for {waited:.0f} s" if waited >= _SLOW_SECONDS else "")

    @property
    def first(self) -> Reading:
        """The reading at the start of the run."""
        return self._run.first

    @property
    def last(self) -> Reading:
        """The latest reading."""
        return self._run.last
