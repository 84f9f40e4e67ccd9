"""How long threads waited for a CPU, from /proc: for hosts where the program does not split the time of exits.

The kernel counts from the start of the thread. So the values go on when this process restarts. They also have the
waiting of the thread outside of KVM, which is short in a vCPU thread.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from exporter.model.records import ThreadKey

_BYTES = 128


class Schedstat:
    """Reads /proc/PID/task/TID/schedstat, which everybody may read. Not thread-safe.

    An open file costs a quarter of the time to open it again, so the files of most threads stay open. A file that is
    open stays that of its thread: after the thread's end it cannot be read, even if another thread has its tid.
    """

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._files: dict[ThreadKey, int] = {}
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4

    def wait_ns(self, key: ThreadKey) -> int | None:
        """Return how long the thread could run but had no CPU; None if the file cannot be read."""
        fd = self._files.get(key)
        try:
            if fd is None:
                fd = os.open(self._proc / str(key.pid) / "task" / str(key.tid) / "schedstat", os.O_RDONLY)
                self._files[key] = fd
            return int(os.pread(fd, _BYTES, 0).split()[1])
        except (OSError, ValueError, IndexError):
            return None
        finally:
            if len(self._files) > self._most:
                self.forget(key)

    def forget(self, key: ThreadKey) -> None:
        """Close the file of a thread."""
        fd = self._files.pop(key, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Close all files."""
        for key in [*self._files]:
            self.forget(key)
