"""`top`: counts for a while, live or not, and prints what was counted."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import replace
from io import TextIOWrapper
from typing import TextIO

from exporter.common.signals import Stop
from exporter.common.text import printable
from exporter.config.options import Config
from exporter.readings.reading import Reading
from exporter.terminal import live, report, source
from exporter.terminal.options import TopOptions
from exporter.terminal.session import Session
from exporter.terminal.view import TopView

_REFRESH_SECONDS = 2.0
_ROUNDING_SECONDS = 1e-4
_FAILURE = 1


def run(config: Config, options: TopOptions) -> int:
    """Run the subcommand; returns the exit status."""
    out = sys.stdout
    if out is None:
        _say("standard output is closed")
        return _FAILURE
    if isinstance(out, TextIOWrapper):
        out.reconfigure(errors="backslashreplace")
    with_view = _live_view(options, out, os.environ.get("TERM", ""))
    try:
        chosen, said = source.choose(
            options.source, options.address or source.default_address(config), lambda: source.OwnSource(config)
        )
        try:
            _say(said)
            with Stop() as stop:
                return _Command(options, chosen, out, stop).run(with_view)
        finally:
            chosen.close()
    except source.SourceError as error:
        _say(str(error))
        return _FAILURE
    except BrokenPipeError:  # `top -i 1 | head` has what it wanted
        report.drop(out)
        return 0
    except OSError as error:  # a full disk, a terminal that is gone
        report.drop(out)
        _say(f"cannot print: {error.strerror or error}")
        return _FAILURE


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        print("kvm-exit-exporter top:", printable(line), file=sys.stderr, flush=True)


def _live_view(options: TopOptions, out: TextIO, term: str) -> bool:
    if options.plain or options.form != "table" or not (out.isatty() and sys.stdin and sys.stdin.isatty()):
        return False
    try:
        live.check(term, out.fileno())
    except live.UnavailableError as error:
        _say(f"no live view: {error}")
        return False
    return True


class _Command:
    def __init__(self, options: TopOptions, chosen: source.Source, out: TextIO, stop: Stop) -> None:
        self._options, self._out, self._stop = options, out, stop
        self._session = Session(chosen, options.duration, stop)
        self._printed = 0

    def run(self, with_view: bool) -> int:
        """Count, and print."""
        options, session = self._options, self._session
        if with_view:
            self._live()
        elif options.interval:
            self._tables(options.interval)
        else:
            if options.duration is None:
                _say("Ctrl-C ends it and prints the table")
            self._count(session.end)
        if with_view or not options.interval:
            session.read()
            self._print(session.first, session.last)
        return self._conclude()

    def _live(self) -> None:
        options = self._options
        # A key shows idle reasons again; --no-idle is how the view begins.
        live.run(
            self._session,
            self._stop,
            TopView(sort=options.sort, userspace=options.userspace, idle=not options.filters.no_idle),
            filters=replace(options.filters, no_idle=False),
            interval=options.interval or _REFRESH_SECONDS,
            limit=options.limit,
        )

    def _count(self, until: float) -> None:
        """Let time pass, and read often enough."""
        session, stop = self._session, self._stop
        while not stop.asked and (now := time.monotonic()) < until:
            if now >= session.next_poll:
                session.read()
            stop.wait(min(until, session.next_poll) - now)

    def _tables(self, interval: float) -> None:
        """Print every interval, and what is left of one at the end: the tables add up to the run."""
        session = self._session
        before, due, number = session.first, session.started, 0
        while not self._stop.asked and due < session.end:
            number += 1
            due = session.started + number * interval
            if due > session.end - _ROUNDING_SECONDS:
                due = session.end
            self._count(due)
            now = session.read()
            self._print(before, now, heading=True)
            before = now

    def _print(self, then: Reading, now: Reading, *, heading: bool = False) -> None:
        text = report.text(self._options, self._session.name, then, now, first=not self._printed, heading=heading)
        self._printed += 1
        self._out.write(text)
        self._out.flush()
        held = report.held(self._options, then, now)
        if held:
            _say(held)

    def _conclude(self) -> int:
        """Say what the numbers do not."""
        session = self._session
        for note in report.notes(self._options, session.first, session.last, "is a VM running on this host?"):
            _say(note)
        if session.last.since_ns != session.first.since_ns:
            _say("the exporter was started anew meanwhile: what it counted between two readings is lost")
        if session.trouble:
            _say(f"what is printed ends with the last reading: {session.trouble}")
            return _FAILURE
        return 0
