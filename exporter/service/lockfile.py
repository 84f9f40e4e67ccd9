"""The lock that keeps a second instance from doubling what every exit costs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path


class LockError(Exception):
    """The lock cannot be had; one line for the operator."""


def hold(path: Path) -> int:
    """Take the lock and return its descriptor; it is free again when that is closed. Raises LockError.

    A missing folder is made, for everybody to read: /run is empty after a boot.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(0o755)
        # No link is followed in a folder that may belong to another user than this one.
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            lock = os.open(path.name, flags, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        why = "a symbolic link is in its place" if error.errno == errno.ELOOP else error.strerror
        remedy = "run as root, or set lock_file to a file that this user can write"
        raise LockError(f"cannot open lock_file {path}: {why}; {remedy}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise LockError(f"another instance is running: it holds the lock {path}") from None
    return lock
