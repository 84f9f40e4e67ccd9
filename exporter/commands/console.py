"""Standard output and standard error of the commands, and their exit statuses."""

from __future__ import annotations

import contextlib
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from exporter.common.procfs import has_foreign_pids
from exporter.common.text import printable

FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def say(line: str, command: str = "") -> None:
    """Print a line to stderr, after the name of the command if one is given. A failed write is ignored."""
    name = f"kvm-exit-exporter {command}: " if command else ""
    with contextlib.suppress(OSError):
        print(name + printable(line), file=sys.stderr, flush=True)


def say_if_pids_are_foreign(proc: Path, command: str = "") -> None:
    """Print a line to stderr if no VM has a name, because this is not the host's PID namespace."""
    from exporter.kernel.remedies import HOST_PIDS, NO_NAMES  # noqa: PLC0415 - usage errors need none of it

    if has_foreign_pids(proc):
        say(f"{NO_NAMES}; {HOST_PIDS}", command)


def stdout(command: str) -> TextIO | None:
    """Standard output. Characters that its encoding lacks are written as escapes.

    If it is closed, a line on stderr says so, and the result is None.
    """
    out = sys.stdout
    if out is None:
        say("standard output is closed", command)
    elif isinstance(out, TextIOWrapper):
        out.reconfigure(errors="backslashreplace")
    return out


def output_failed(error: OSError, out: TextIO, command: str) -> int:
    """Handle a failed write to `out`; returns the exit status.

    The status is 0 if the reader closed the pipe, as `head` does after its last line. Any other error, such as a full
    disk or a closed terminal, is printed on stderr.
    """
    # Python flushes `out` again at exit, and that would fail again. So the rest of the output goes to /dev/null.
    os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
    if isinstance(error, BrokenPipeError):
        return 0
    say(f"cannot print: {error.strerror or error}", command)
    return FAILURE
