"""One run of top: how long it waits for the last reading after a signal."""

from __future__ import annotations

import time

from exporter.common.signals import Stop
from exporter.readings.reading import Reading
from exporter.terminal.session import Session
from tests.support.readings import reading

SLOW_SECONDS = 0.7  # more than top waits for a source that was never slow


class Slow:
    """An exporter that needs the same time for each answer. Each reading is newer than the one before."""

    name, poll_seconds, remote = "a slow exporter", 5.0, True

    def __init__(self) -> None:
        self.answers = 0
        self.first_seconds = SLOW_SECONDS
        self.first = reading(1, replay=False, since_ns=1)

    def read(self) -> Reading:
        time.sleep(SLOW_SECONDS)
        self.answers += 1
        return reading(1 + self.answers, replay=False, since_ns=1)

    def close(self) -> None:
        pass


def test_a_signal_before_the_second_reading_waits_for_a_source_that_was_slow_at_first() -> None:
    source = Slow()
    with Stop() as stop:
        session = Session(source, None, stop)
        stop.asked = True
        session.read()
    assert (source.answers, session.trouble) == (1, "")
