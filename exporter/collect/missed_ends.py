"""Threads whose end the program missed.

The kernel skips an event while another BPF program runs on the CPU, or is preempted there (Linux 7.1 and newer). If
this event was the end of a vCPU thread, its slot stays in use. The program notices that when a thread of another
process with the same tid has its first event. Until then, and for a thread of the same process, only /proc shows the
end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from exporter.common.procfs import HOST_PID_NAMESPACE, pid_namespace, start_time
from exporter.model.records import ThreadKey

_SLACK_NS = 1_000_000_000
"""A thread may be this much younger than its slot. The kernel gives start times in ticks of 10 ms or less."""


def ended(keys: Iterable[ThreadKey], proc: Path, now: int) -> list[ThreadKey]:
    """Return the threads that do not run any more. `now` is the time on the clock of `born_ns`.

    Returns none if `proc` does not show all processes of the host, under the pids that the program knows.
    """
    if not _shows_host(proc):
        return []
    boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    found = []
    for key in keys:
        thread = proc / str(key.pid) / "task" / str(key.tid)
        ticks = start_time(thread)
        age_ns = None if ticks is None else boot_ns - ticks * tick_ns
        # If the thread is younger than its slot, it is another thread with the same tid.
        if _is_gone(thread) if age_ns is None else age_ns + _SLACK_NS < now - key.born_ns:
            found.append(key)
    return found


def _is_gone(thread: Path) -> bool:
    try:
        thread.stat()
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
    return False


def _shows_host(proc: Path) -> bool:
    """True if the files of foreign processes can be read (no hidepid), and this is the host's PID namespace."""
    try:
        return pid_namespace(proc) == HOST_PID_NAMESPACE and start_time(proc / "1") is not None
    except OSError:
        return False
