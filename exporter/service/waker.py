"""A sleep that another thread or a signal can end."""

from __future__ import annotations

import contextlib
import os
import select


class Waker:
    """A pipe: one thread sleeps on one end, and a write to the other end wakes it."""

    def __init__(self) -> None:
        """Open the pipe. Raises OSError."""
        self._read, self.fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def sleep(self, seconds: float) -> None:
        """Sleep for this time, or until wake() or a write to `fd`."""
        if select.select([self._read], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 64)

    def wake(self) -> None:
        """End the present sleep or the next one. Safe in a signal handler."""
        with contextlib.suppress(BlockingIOError):  # a full pipe also wakes the sleeping thread
            os.write(self.fd, b".")

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.fd)
        os.close(self._read)
