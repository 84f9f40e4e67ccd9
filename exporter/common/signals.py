"""The end of a run: signals that ask for it, and waiting that they cut short."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from types import FrameType

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """While entered, SIGINT, SIGTERM and SIGHUP set `asked`; a second SIGINT is a KeyboardInterrupt.

    SIGWINCH sets `resized`, which the live view resets. A signal that was ignored at the start stays so (nohup).
    """

    def __init__(self) -> None:
        self.asked = False
        self.resized = False

    def __enter__(self) -> Stop:
        # Objects, not numbers: a thread that calls wake() too late must not write to what has the number by then.
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._before = {number: signal.getsignal(number) for number in (*_ENDS, signal.SIGWINCH)}
        for number in _ENDS:
            if self._before[number] != signal.SIG_IGN:
                signal.signal(number, self._end)
        signal.signal(signal.SIGWINCH, self._resize)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._read.close()
        self._write.close()

    def _end(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def _resize(self, *_: object) -> None:
        self.resized = True

    def wake(self) -> None:
        """End a wait, or the next one; from any thread, also after the end."""
        with contextlib.suppress(OSError):  # full: it ends anyway
            self._write.send(b"\0")

    def wait(self, seconds: float, *descriptors: int) -> bool:
        """Wait so long, or until a signal or wake(); True if one of the descriptors has something to read."""
        if self.asked:
            return False
        woken = self._read.fileno()
        ready, _, _ = select.select([woken, *descriptors], [], [], max(0.0, min(seconds, 86400.0)))
        if woken in ready:
            self._read.recv(4096)
        return any(descriptor in ready for descriptor in descriptors)
