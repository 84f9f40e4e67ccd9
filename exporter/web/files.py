"""The files of the web configuration: reading one without waiting for it, and whether it has changed."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Optional

Stamp = Optional[tuple[int, int, int]]


def stamp(path: Path) -> Stamp:
    """What changes when a file does, be it renamed over, linked anew or written in place; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def content(path: Path, most: int) -> bytes:
    """The first bytes of a regular file. Raises OSError, also for another kind: a FIFO would keep us waiting."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(most)
