"""Reads files that an operator names, without blocking, and finds out whether a file has changed."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, Optional, cast

Stamp = Optional[tuple[int, int, int]]
"""Modification time in ns, size in bytes and inode of a file."""


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file, or None. The stamp changes if the file is written, renamed over or linked anew."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises OSError if the file cannot be read, or is not a regular file: reading a FIFO would block, and a device may
    have no end. Raises ValueError if the path contains a NUL.
    """
    if "\0" in str(path):
        raise ValueError("embedded null byte")  # Python's own text differs between its versions
    _check_type(path.stat().st_mode)  # before open(), which can start a device, or take a terminal
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _check_type(os.fstat(file.fileno()).st_mode)  # another file may have taken its place meanwhile
    except OSError:
        file.close()
        raise
    return file


class _AtPosition(io.RawIOBase):
    """Reads an open file from its start. The position belongs to this object, not to the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = os.preadv(self._descriptor, [buffer], self._at)
        self._at += read
        return read


def reader_of(descriptor: int) -> BinaryIO:
    """Return a reader of an open file, from its start. Several processes can read one descriptor at the same time.

    The reader does not own the descriptor.
    """
    return cast("BinaryIO", io.BufferedReader(_AtPosition(descriptor)))


def read_start(path: Path, max_bytes: int) -> bytes:
    """Return at most `max_bytes` from the start of a regular file. Raises the errors of open_regular()."""
    with open_regular(path) as file:
        return file.read(max_bytes)


def _check_type(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
