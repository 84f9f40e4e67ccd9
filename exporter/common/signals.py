"""Signals that end a command, and a wait that they interrupt."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from types import FrameType

_END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """While the context is entered, SIGINT, SIGTERM and SIGHUP set `asked`; a second SIGINT raises KeyboardInterrupt.

    SIGWINCH sets `resized`, which the live view of `top` resets. A signal that was ignored at the start stays ignored
    (nohup).
    """

    def __init__(self) -> None:
        self.asked = False
        self.resized = False

    def __enter__(self) -> Stop:
        # These are sockets, not descriptor numbers. After the context has ended, another file may have the same number,
        # and wake() must not write to that file.
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._previous_handlers = {number: signal.getsignal(number) for number in (*_END_SIGNALS, signal.SIGWINCH)}
        for number in _END_SIGNALS:
            if self._previous_handlers[number] != signal.SIG_IGN:
                signal.signal(number, self._end)
        signal.signal(signal.SIGWINCH, self._resize)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous_handlers.items():
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
        """End the current wait(), or the next one. Any thread may call this, also after the context has ended."""
        with contextlib.suppress(OSError):  # a full socket ends the wait anyway; after close, no wait runs
            self._write.send(b"\0")

    def wait(self, seconds: float, *descriptors: int) -> bool:
        """Wait for at most `seconds` (and at most a day), or until a signal or wake().

        Returns True if one of the descriptors is readable.
        """
        if self.asked:
            return False
        woken = self._read.fileno()
        ready, _, _ = select.select([woken, *descriptors], [], [], max(0.0, min(seconds, 86400.0)))
        if woken in ready:
            self._read.recv(4096)
        return any(descriptor in ready for descriptor in descriptors)
