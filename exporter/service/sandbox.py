"""The sandbox of the daemon. After the daemon has dropped its privileges, the kernel refuses what it never needs.

The sandbox needs no systemd. With it, a hole in HTTP, TLS or Python starts no program, loads no BPF, writes no file and
connects to nobody.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from exporter.common.logs import event
from exporter.kernel import landlock, seccomp

log = logging.getLogger(__name__)

_SYSTEM = ("/proc", "/sys", "/dev/null", "/dev/urandom", "/etc", "/usr", "/lib", "/lib64", "/opt", "/nix", "/gnu")
"""Readable besides Python's folders: names and pids, Python's modules and libraries, time zones, authorities."""
_PACKAGE = Path(__file__).parents[2]


def folders_of(files: Iterable[Path]) -> set[Path]:
    """Return the folders of these files and, for links, those of their targets: a new file can take their place."""
    return {folder for file in files for folder in (file.absolute().parent, file.resolve().parent)}


def enter(files: Iterable[Path], sockets: Iterable[Path]) -> None:
    """Restrict this thread and all that it starts. `files` are read again later, and `sockets` are removed at the end.

    A kernel without Landlock or seccomp is no error: one line of the log says what is in force.
    """
    python = (sys.prefix, sys.base_prefix, *filter(None, sys.path))
    read = {_PACKAGE, *map(Path, (*_SYSTEM, *python)), *folders_of(files)}
    removed = {path.parent for path in sockets}
    event(
        log,
        "info",
        "sandbox entered",
        landlock=_result(lambda: f"version {landlock.restrict(sorted(read), sorted(removed))}"),
        seccomp=_result(_install_filter),
    )


def _install_filter() -> str:
    seccomp.install()
    return "on"


def _result(restrict: Callable[[], str]) -> str:
    try:
        return restrict()
    except OSError as error:
        return f"off: {error.strerror}"


def leave_terminal() -> None:
    """Replace standard input and output by /dev/null if they are a terminal. The log stays on standard error."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1):
        if os.isatty(fd):
            os.dup2(null, fd)
    os.close(null)


def close_inherited(passed: Iterable[int]) -> None:
    """Close all descriptors that the starting process left open, except the first three and the `passed` ones."""
    kept = {0, 1, 2, *passed}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        fd = int(name)
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
            if fd not in kept and os.get_inheritable(fd):
                os.close(fd)
