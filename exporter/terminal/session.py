"""One run: a source that is read often enough, and what has happened so far."""

from __future__ import annotations

import math
import time

from exporter.document import Reading
from exporter.rows import Run
from exporter.terminal.source import Source, SourceError


class Session:
    """Readings of a source from the start of a run to its end, `duration` seconds later."""

    def __init__(self, source: Source, duration: float | None) -> None:
        self._source = source
        self._run = Run(source.first)
        self.name = source.name
        self.started = time.monotonic()
        self.end = math.inf if duration is None else self.started + duration
        self.next_poll = self.started + source.poll_seconds
        self.trouble = ""
        """Why the last reading failed; empty if it did not."""

    def read(self) -> Reading:
        """A reading of now, or the last one where that fails; with the vCPUs that are gone."""
        self.next_poll = time.monotonic() + self._source.poll_seconds
        try:
            self._run.add(self._source.read())
            self.trouble = ""
        except SourceError as error:
            self.trouble = str(error)
        return self.last

    @property
    def first(self) -> Reading:
        """What the run is counted from."""
        return self._run.first

    @property
    def last(self) -> Reading:
        """The latest reading."""
        return self._run.last
