"""The lock that prevents a second instance. A second instance would double the cost of every exit."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path


class LockError(Exception):
    """The lock cannot be taken. The message is one line for the operator."""


def hold(path: Path) -> int:
    """Take the lock and return its descriptor. Closing the descriptor releases the lock. Raises LockError.

    A missing folder is made, readable for everybody: /run is empty after a boot.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(0o755)
        # No symbolic link is followed, because the folder may belong to another user.
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
