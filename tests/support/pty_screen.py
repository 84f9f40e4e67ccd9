"""Run a program in a real pseudo-terminal, and compute the screen that a terminal would show."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

import pyte

SECONDS = 20


class _Screen(pyte.Screen):
    """A screen that stores dim text (SGR 2) as italics.

    The library pyte does not support dim text, and the exporter uses no italics.
    """

    def select_graphic_rendition(self, *attributes: int, **_: Any) -> None:
        super().select_graphic_rendition(*(3 if each == 2 else each for each in attributes))


class Terminal:
    """`python3 -m exporter` on a terminal of the given size."""

    def __init__(
        self,
        *arguments: str,
        columns: int = 80,
        height: int = 24,
        before: str = "",
        changed: str = "",
        **environment: str,
    ) -> None:
        """`before` is shell commands that run first.

        `changed` is Python code that changes the program before it starts.
        """
        started = ["-c", f"{changed}\nimport sys\nfrom exporter.__main__ import main\nsys.exit(main())"]
        self.screen = _Screen(columns, height)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._controller, terminal = pty.openpty()
        self._set_size(columns, height)
        known = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "COLUMNS": "", "LINES": ""}
        unset = [name for name, value in known.items() if not value]
        environ = {**os.environ, **known, **environment}
        self.process = subprocess.Popen(
            # The session leader opens the terminal, so it becomes the controlling terminal. Only then does Ctrl-C send
            # SIGINT, and a resize SIGWINCH.
            [
                "sh",
                "-c",
                before + '\nexec "$@" <"$0" >"$0"',
                os.ttyname(terminal),
                sys.executable,
                *(started if changed else ["-m", "exporter"]),
                *arguments,
            ],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={name: value for name, value in environ.items() if name not in unset},
        )
        self._before = termios.tcgetattr(terminal)
        self._terminal = terminal

    def _set_size(self, columns: int, height: int) -> None:
        fcntl.ioctl(self._controller, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))

    def resize(self, columns: int, height: int) -> None:
        """Set a new size, as a terminal emulator does. The kernel then sends SIGWINCH."""
        self.screen.resize(height, columns)
        self._set_size(columns, height)

    def read(self, seconds: float) -> None:
        """Read the program's output for the given time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._controller], [], [], left)[0]:
                return
            try:
                data = os.read(self._controller, 65536)
            except OSError:
                return
            if not data:
                return
            self.raw += data
            self._stream.feed(data)

    def wait(self, holds: Callable[[list[str]], object], what: str = "") -> list[str]:
        """Wait until holds(lines) is true; return the lines."""
        deadline = time.monotonic() + SECONDS
        while not holds(self.lines()):
            assert time.monotonic() < deadline, what + "\n".join(["", *self.lines()])
            self.read(0.05)
        return self.lines()

    def lines(self) -> list[str]:
        """Return the screen's lines without trailing blanks."""
        return [line.rstrip() for line in self.screen.display]

    def dim(self) -> list[bool]:
        """Return for each line whether all its text is dimmed."""
        return [
            all(cell.italics for cell in map(row.__getitem__, range(self.screen.columns)) if cell.data.strip())
            for row in map(self.screen.buffer.__getitem__, range(self.screen.lines))
        ]

    def send(self, keys: str) -> None:
        """Type these keys."""
        os.write(self._controller, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Wait for the program's end. Return its status, its stderr, and the text after the live view."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.lines()
            self.read(0.05)
        self.read(0.2)
        assert self.process.stderr
        said = self.process.stderr.read()
        assert "Traceback" not in said, said
        after = self.raw.rpartition(b"\x1b[?1049l")[2].decode().replace("\r\n", "\n")
        after = re.sub(r"\A(?:\x1b\[[0-9;?]*[A-Za-z]|\x1b[>=]|\r)*", "", after)
        return self.process.returncode, said, after

    def hang_up(self) -> None:
        """Close the terminal, as when its window is closed. Afterwards, only close() may be called."""
        os.close(self._terminal)
        os.close(self._controller)
        self._controller = self._terminal = -1

    def restored(self) -> bool:
        """Return whether the terminal's modes are the same as before the program started."""
        return bool(termios.tcgetattr(self._terminal) == self._before)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()
        if self._terminal >= 0:
            self.hang_up()
