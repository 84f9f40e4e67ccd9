"""The process around the daemon: signals, heap, exit status."""

from __future__ import annotations

import ctypes
import logging
import signal
from pathlib import Path

from exporter import host, program, web
from exporter.config import Config, ConfigError, UnreadableError
from exporter.daemon import Daemon, StartError
from exporter.logs import event
from exporter.replay import recording

log = logging.getLogger(__name__)

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h


def _keep_heap_small() -> None:
    """Have glibc use one heap, and give large blocks back to the kernel.

    By default each thread that answers a scrape gets a heap of its own, which keeps what it once held.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 1 << 17)


def run(config: Config, *, recorded: Path | None = None, speed: float = 1.0) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP; returns the exit status. With `recorded`, serve a replay of it."""
    _keep_heap_small()
    try:
        daemon = Daemon(config)
    except web.ListenError as error:
        event(log, "error", str(error))
        return 1
    except ConfigError as error:
        for problem in error.problems:
            event(log, "error", problem)
        return 1 if isinstance(error, UnreadableError) else 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: daemon.stop())
    try:
        daemon.start("This is a replay of a recording, not this host." if recorded else "")
        if recorded:
            daemon.replay(recorded, speed)
        else:
            daemon.attach()
        daemon.wait()
    except (StartError, recording.RecordingError) as error:
        event(log, "error", str(error))
        return 1
    except program.LoadError as error:
        attach = recorded is None
        event(log, "error", host.explained(error, config, proc=Path("/proc"), sysfs=Path("/sys"), attach=attach))
        return 1
    finally:
        daemon.close()
    return 0
