"""The clock of BPF programs, bpf_ktime_get_ns(): CLOCK_MONOTONIC of the host.

In a time namespace, CLOCK_MONOTONIC of a process has an offset (time_namespaces(7)). BPF programs have no namespace.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from exporter.kernel.program import LoadError

_MONOTONIC = re.compile(r"^monotonic +(-?\d+) +(\d+)$", re.M)


def bpf_clock(proc: Path) -> Callable[[], int]:
    """Return the function that reads the clock of BPF programs, in ns. `proc` is the root of proc. Raises LoadError.

    The offset of a time namespace cannot change once a process is in it.
    """
    offset_ns = _monotonic_offset_ns(proc)
    return (lambda: time.monotonic_ns() - offset_ns) if offset_ns else time.monotonic_ns


def _monotonic_offset_ns(proc: Path) -> int:
    """Return the ns by which CLOCK_MONOTONIC of this process is ahead of the host's. Raises LoadError."""
    path = proc / "self/timens_offsets"
    try:
        # The file has the offsets of future children. Before Linux 6.3, a process that `unshare -T` started without
        # --fork is not in their namespace itself (commit 2b5f9dad32ed): it has the clock from before unshare.
        if (proc / "self/ns/time").readlink() != (proc / "self/ns/time_for_children").readlink():
            return 0
        text = path.read_text(errors="replace")
    except FileNotFoundError:  # a kernel without time namespaces
        return 0
    except OSError as error:
        raise LoadError(f"cannot read {error.filename}: {error.strerror}") from error
    match = _MONOTONIC.search(text)
    if not match:
        raise LoadError(f"{path} has no line monotonic")
    return int(match[1]) * 10**9 + int(match[2])
