"""Reads a file in a child process. Only a process can be killed while it waits for another process's mmap_lock."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

SECONDS = 1.0
"""A command line is read in a few milliseconds, if its mmap_lock is free, and later on a busy host."""


def read_head_in_child(path: Path, limit: int) -> bytes | None:
    """Return the first `limit` bytes of a file; b"" if it cannot be read, and None if that takes too long.

    The child is killed then. The wait for a mmap_lock ends with a fatal signal (access_remote_vm(), mm/memory.c). The
    child is a fork without exec. It runs no code of other threads, and takes no lock of them.
    """
    try:
        reader, writer = os.pipe()
    except OSError:
        return None
    try:
        child = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        return None
    if child == 0:
        _copy(path, limit, writer)
    os.close(writer)
    try:
        return _read_until(reader, time.monotonic() + SECONDS)
    finally:
        os.close(reader)
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
        with suppress(OSError):
            os.waitpid(child, 0)


def _copy(path: Path, limit: int, writer: int) -> None:
    """Copy the file into the pipe, and end the child."""
    try:
        # This process must not keep the sockets and BPF programs of its parent open.
        # A range up to the limit may have a billion descriptors.
        for fd in [int(each.name) for each in Path("/proc/self/fd").iterdir()]:
            if fd != writer:
                with suppress(OSError):  # the list's own descriptor is closed already
                    os.close(fd)
        source = os.open(path, os.O_RDONLY)
        while limit > 0 and (piece := os.read(source, min(limit, select.PIPE_BUF))):
            os.write(writer, piece)
            limit -= len(piece)
    finally:
        os._exit(0)


def _read_until(reader: int, deadline: float) -> bytes | None:
    """Return everything up to the end of the pipe; None if that is not there at the deadline."""
    found = bytearray()
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        piece = os.read(reader, 1 << 16)
        if not piece:
            return bytes(found)
        found += piece
    return None
