"""The live view: draws the lines of screen.py with curses, and reads keys.

Only this module changes the state of the terminal. It restores the state at the end.
"""

from __future__ import annotations

import contextlib
import locale
import os
import select
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.common.signals import Stop
from exporter.readings.difference import ReasonDifference, between
from exporter.readings.grouping import Filters
from exporter.readings.reading import Reading
from exporter.terminal import screen
from exporter.terminal.screen import Frame, Style
from exporter.terminal.session import Session
from exporter.terminal.view import TopView, press

if TYPE_CHECKING:
    import curses

_FIRST_SECONDS = 1.0
"""Longest time until the first numbers are shown."""

_TICK_SECONDS = 1.0
"""How often the header is updated while the source does not answer."""


class UnavailableError(Exception):
    """The live view is not possible on this terminal; the text is the reason."""


def check(term: str, descriptor: int) -> None:
    """Check the terminal of type `term` (the variable TERM). Raises UnavailableError if a live view is not possible."""
    try:
        import curses  # noqa: PLC0415 - some distributions have it in a package of its own
    except ImportError as error:
        raise UnavailableError(f"this Python has no module curses ({error})") from error
    try:
        curses.setupterm(term, descriptor)
    except curses.error as error:
        raise UnavailableError(f"the terminal type {term!a} is unknown (TERM)") from error
    if not curses.tigetstr("cup") or not curses.tigetstr("clear"):
        raise UnavailableError(f"the terminal type {term!a} cannot place the cursor (TERM)")


def run(session: Session, stop: Stop, view: TopView, *, filters: Filters, interval: float, limit: int | None) -> None:
    """Show the session until its end, a signal, or the key q. The numbers are refreshed every `interval` seconds."""
    with _window() as window:
        _Live(window, session, stop, view, filters=filters, interval=interval, limit=limit).loop()


@contextlib.contextmanager
def _window() -> Iterator[curses.window]:
    import curses  # noqa: PLC0415

    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "")
    os.environ.setdefault("ESCDELAY", "25")
    window = curses.initscr()
    try:
        curses.noecho()
        curses.cbreak()
        window.keypad(True)
        window.nodelay(True)
        with contextlib.suppress(curses.error):  # raised if the terminal cannot hide the cursor
            curses.curs_set(0)
        yield window
    finally:
        with contextlib.suppress(curses.error):
            curses.curs_set(1)
        with contextlib.suppress(curses.error):
            curses.endwin()


def _hung_up() -> bool:
    """Return True if the terminal is closed. Standard input is then always readable, but returns no key."""
    poller = select.poll()
    poller.register(0, 0)  # poll() reports errors and hangups even if no event is requested
    return bool(poller.poll(0))


class _Live:
    def __init__(
        self,
        window: curses.window,
        session: Session,
        stop: Stop,
        view: TopView,
        *,
        filters: Filters,
        interval: float,
        limit: int | None,
    ) -> None:
        import curses  # noqa: PLC0415

        self._session, self._stop, self._filters, self._limit = session, stop, filters, limit
        self._interval, self._window, self._view = interval, window, view
        self._unicode = window.encoding.lower().replace("-", "") == "utf8"
        self._styles = {
            Style.PLAIN: curses.A_NORMAL,
            Style.TITLE: curses.A_BOLD,
            Style.HEADER: curses.A_REVERSE,
            Style.DIM: curses.A_DIM,
        }
        self._keys = {
            curses.KEY_UP: "up",
            curses.KEY_DOWN: "down",
            curses.KEY_PPAGE: "page up",
            curses.KEY_NPAGE: "page down",
            curses.KEY_HOME: "home",
            curses.KEY_END: "end",
        }
        self._shown: Reading = session.first
        """The last reading in the present frame. The next interval begins with this reading."""
        self._next_refresh = time.monotonic() + min(interval, _FIRST_SECONDS)
        self._due = False
        """True if the next reading must be shown, because the interval is over."""
        self._frame = self._new_frame(None)

    def _new_frame(self, reading: Reading | None) -> Frame:
        interval = self._filters.apply(between(self._shown, reading)) if reading else None
        total = self._filters.apply(between(self._session.first, self._session.last))
        return Frame(time.strftime("%H:%M:%S"), self._session.name, interval, total)

    def loop(self) -> None:
        session = self._session
        while not self._stop.asked:
            if not self._view.paused:  # while the view is paused, the old error stays beside the old numbers
                self._frame = replace(self._frame, trouble=session.trouble)
            self._draw()
            now = time.monotonic()
            if now >= session.end:
                return
            due = session.next_poll if self._view.paused else min(self._next_refresh, session.next_poll)
            if session.requested_at:
                due = min(due, now + _TICK_SECONDS)
            pressed = self._stop.wait(min(due, session.end) - now, 0)
            if self._stop.resized:
                self._resize()
            if pressed and (_hung_up() or not self._handle_keys()):
                self._stop.asked = True
                return
            self._read()

    def _read(self) -> None:
        """Request a reading if it is time, and show the requested one if it has arrived."""
        now = time.monotonic()
        if now >= self._next_refresh and not self._view.paused:
            self._due = True
            self._session.request()
            self._next_refresh += self._interval
            if self._next_refresh <= now:
                self._next_refresh = now + self._interval
        elif now >= self._session.next_poll:
            self._session.request()
        reading = self._session.take()
        if reading and self._due and not self._view.paused:
            self._due = False
            self._frame = self._new_frame(reading)
            self._shown = reading

    def _rows(self) -> list[ReasonDifference]:
        return screen.chosen(self._frame, self._view, self._limit)

    def _handle_keys(self) -> bool:
        """Handle all keys that were pressed; False to quit."""
        while True:
            code = self._window.getch()
            if code < 0:
                return True
            key = self._keys.get(code) or (chr(code) if code < 128 else "")
            page = screen.page_rows(self._window.getmaxyx()[0])
            changed = press(self._view, key, page=page, rows=len(self._rows()))
            if changed is None:
                return False
            self._view = changed

    def _resize(self) -> None:
        import curses  # noqa: PLC0415

        self._stop.resized = False
        columns, height = os.get_terminal_size(1)
        with contextlib.suppress(curses.error):
            curses.resizeterm(max(1, height), max(1, columns))
        self._window.clear()

    def _draw(self) -> None:
        import curses  # noqa: PLC0415

        height, columns = self._window.getmaxyx()
        self._window.erase()
        made = screen.lines(self._frame, self._view, self._rows(), height, columns, unicode=self._unicode)
        for at, (text, style) in enumerate(made):
            # After drawing the last cell of the screen, curses raises: there is no next cell for the cursor.
            with contextlib.suppress(curses.error):
                self._window.addstr(at, 0, text, self._styles[style])
        self._window.refresh()
