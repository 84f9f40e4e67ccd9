"""Reads a file of the web configuration without blocking, and finds out whether a file has changed."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Optional

Stamp = Optional[tuple[int, int, int]]
"""Modification time in ns, size in bytes and inode of a file."""


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file, or None. The stamp changes if the file is written, renamed over or linked anew."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_start(path: Path, max_bytes: int) -> bytes:
    """Return at most `max_bytes` from the start of a regular file.

    Raises OSError if the file cannot be read, or is not a regular file: reading a FIFO would block.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(max_bytes)
