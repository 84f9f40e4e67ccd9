"""Counts events as `perf stat -a` does: a perf event on each CPU."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import AbstractContextManager
from pathlib import Path

_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241}
_TYPE_TRACEPOINT, _ATTR_SIZE = 2, 64  # include/uapi/linux/perf_event.h


class PerfCounter(AbstractContextManager["PerfCounter"]):
    """Counts the events of one tracepoint ("kvm/kvm_exit") on all CPUs, from its creation on."""

    def __init__(self, event: str) -> None:
        identifier = int((Path("/sys/kernel/tracing/events") / event / "id").read_text())
        attributes = struct.pack("=IIQ48x", _TYPE_TRACEPOINT, _ATTR_SIZE, identifier)
        libc = ctypes.CDLL(None, use_errno=True)
        number = ctypes.c_long(_SYS_PERF_EVENT_OPEN[os.uname().machine])
        self._fds = []
        for cpu in range(os.cpu_count() or 1):
            fd = libc.syscall(number, attributes, ctypes.c_int(-1), ctypes.c_int(cpu), ctypes.c_int(-1), 0)
            if fd < 0:
                raise OSError(ctypes.get_errno(), f"perf_event_open: {os.strerror(ctypes.get_errno())}")
            self._fds.append(fd)

    def count(self) -> int:
        """Return the number of events."""
        return sum(int.from_bytes(os.read(fd, 8), "little") for fd in self._fds)

    def __exit__(self, *_: object) -> None:
        while self._fds:
            os.close(self._fds.pop())
