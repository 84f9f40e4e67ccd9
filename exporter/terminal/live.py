"""The live view: curses around screen.py. Only this module touches the terminal, and it puts it back."""

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
"""The first numbers come after so long at the latest."""


_TICK_SECONDS = 1.0
"""So often the header says how long there has been no answer."""


class UnavailableError(Exception):
    """This terminal can show no live view; the text says why."""


def check(term: str, descriptor: int) -> None:
    """Raise UnavailableError where no live view is possible."""
    try:
        import curses  # noqa: PLC0415 - some distributions package it apart
    except ImportError as error:
        raise UnavailableError(f"this Python has no module curses ({error})") from error
    try:
        curses.setupterm(term, descriptor)
    except curses.error as error:
        raise UnavailableError(f"the terminal type {term!a} is unknown (TERM)") from error
    if not curses.tigetstr("cup") or not curses.tigetstr("clear"):
        raise UnavailableError(f"the terminal type {term!a} cannot place the cursor (TERM)")


def run(session: Session, stop: Stop, view: TopView, *, filters: Filters, interval: float, limit: int | None) -> None:
    """Show the session until its end, a signal, or q; refreshed every `interval` seconds."""
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
        with contextlib.suppress(curses.error):  # a terminal that cannot hide it
            curses.curs_set(0)
        yield window
    finally:
        with contextlib.suppress(curses.error):
            curses.curs_set(1)
        with contextlib.suppress(curses.error):
            curses.endwin()


def _hung_up() -> bool:
    """True once there is no terminal: it can always be read from then on, and there is nothing to read."""
    poller = select.poll()
    poller.register(0, 0)  # errors and hangups are told unasked
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
        self._refresh = time.monotonic() + min(interval, _FIRST_SECONDS)
        self._wanted = False
        """The next reading is shown: the time has come."""
        self._frame = self._take(None)

    def _take(self, reading: Reading | None) -> Frame:
        interval = self._filters.apply(between(self._shown, reading)) if reading else None
        total = self._filters.apply(between(self._session.first, self._session.last))
        return Frame(time.strftime("%H:%M:%S"), self._session.name, interval, total)

    def loop(self) -> None:
        session = self._session
        while not self._stop.asked:
            if not self._view.paused:  # the old numbers stay, and why there are no new ones
                self._frame = replace(self._frame, trouble=session.trouble)
            self._draw()
            now = time.monotonic()
            if now >= session.end:
                return
            due = session.next_poll if self._view.paused else min(self._refresh, session.next_poll)
            if session.asked:
                due = min(due, now + _TICK_SECONDS)
            pressed = self._stop.wait(min(due, session.end) - now, 0)
            if self._stop.resized:
                self._resize()
            if pressed and (_hung_up() or not self._take_keys()):
                self._stop.asked = True
                return
            self._read()

    def _read(self) -> None:
        """Ask for a reading if it is time, and show the one that was asked for if it is there."""
        now = time.monotonic()
        if now >= self._refresh and not self._view.paused:
            self._wanted = True
            self._session.ask()
            self._refresh += self._interval
            if self._refresh <= now:
                self._refresh = now + self._interval
        elif now >= self._session.next_poll:
            self._session.ask()
        reading = self._session.take()
        if reading and self._wanted and not self._view.paused:
            self._wanted = False
            self._frame = self._take(reading)
            self._shown = reading

    def _rows(self) -> list[ReasonDifference]:
        return screen.chosen(self._frame, self._view, self._limit)

    def _take_keys(self) -> bool:
        """Work off what was typed; False to quit."""
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
            # The last cell of the screen: the cursor has no place to go to, curses says so after it has drawn.
            with contextlib.suppress(curses.error):
                self._window.addstr(at, 0, text, self._styles[style])
        self._window.refresh()
