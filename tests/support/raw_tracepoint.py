"""Attach a loaded program to a raw tracepoint of the running kernel, without bcc."""

from __future__ import annotations

import ctypes
import struct

from exporter.kernel import syscall

_RAW_TRACEPOINT_OPEN = 17  # include/uapi/linux/bpf.h


def attach_raw(program: int, tracepoint: str) -> int:
    """Attach a loaded program; closing the returned descriptor detaches it. Raises OSError."""
    text = ctypes.create_string_buffer(tracepoint.encode())
    return syscall._bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QI4x", ctypes.addressof(text), program))
