"""One run: a source that is read often enough, and what has happened so far."""

from __future__ import annotations

import math
import threading
import time

from exporter.common.signals import Stop
from exporter.readings.difference import ReadingSpan
from exporter.readings.reading import Reading
from exporter.terminal.source import Source, SourceError

_SLOW_SECONDS = 1.0
"""An answer that takes longer is missed aloud."""

_PATIENCE_SECONDS = 0.5
"""So long, or so many times what the slowest answer took, a source is waited for once an end is asked for."""
_PATIENCE_TIMES = 4


class Session:
    """Readings of a source from the start of a run to its end, `duration` seconds later.

    A remote source is read in a thread: neither it nor a name server that hangs keeps `stop`, or keys, from acting.
    """

    def __init__(self, source: Source, duration: float | None, stop: Stop) -> None:
        self._source, self._stop = source, stop
        self._run = ReadingSpan(source.first)
        self.name = source.name
        self.started = time.monotonic()
        self.end = math.inf if duration is None else self.started + duration
        self.next_poll = self.started + source.poll_seconds
        self.asked = 0.0
        """When the source was asked for the reading that is on its way; 0.0 if none is."""
        self._answered = threading.Event()
        self._answer: Reading | BaseException = source.first
        self._slowest = 0.0
        self._trouble = ""

    def ask(self) -> None:
        """Have a reading made, unless one is on its way; it ends a wait of `stop`, and take() has it then."""
        now = time.monotonic()
        self.next_poll = now + self._source.poll_seconds
        if self.asked:
            return
        self.asked = now
        if self._source.remote:
            try:
                threading.Thread(target=self._read, daemon=True).start()
                return
            except RuntimeError:  # no thread is to be had
                pass
        self._read()

    def _read(self) -> None:
        try:
            self._answer = self._source.read()
        except BaseException as error:  # take() has it: this may be another thread
            self._answer = error
        self._answered.set()
        self._stop.wake()

    def take(self) -> Reading | None:
        """The reading that was asked for, with the vCPUs that are gone; None where there is none yet, or it failed."""
        if not self._answered.is_set():
            return None
        answer, took = self._answer, time.monotonic() - self.asked
        self._answered.clear()
        self.asked = 0.0
        if isinstance(answer, SourceError):
            self._trouble = str(answer)
            return None
        if isinstance(answer, BaseException):
            raise answer
        self._trouble, self._slowest = "", max(self._slowest, took)
        return self._run.add(answer)

    def read(self) -> Reading:
        """A reading of now, or the last one where that fails or `stop` cuts it short; with the vCPUs that are gone."""
        self._finish()  # what is on its way began before now
        if not self.asked:
            self.ask()
            self._finish()
        return self.last

    def _finish(self) -> None:
        while self.asked and not self._answered.is_set():
            waited = time.monotonic() - self.asked
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
        """Why there is no newer reading; empty if there is nothing wrong."""
        waited = time.monotonic() - self.asked if self.asked else 0.0
        return self._trouble or (f"no answer for {waited:.0f} s" if waited >= _SLOW_SECONDS else "")

    @property
    def first(self) -> Reading:
        """What the run is counted from."""
        return self._run.first

    @property
    def last(self) -> Reading:
        """The latest reading."""
        return self._run.last
