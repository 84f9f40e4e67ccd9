"""The bpf(2) commands that the exporter calls without bcc.

Numbers and structures are those of include/uapi/linux/bpf.h. Every function raises OSError.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct

from exporter.kernel.isa import registry
from exporter.kernel.libc import checked, libc
from exporter.model.records import RunStats

_MAP_LOOKUP_ELEM, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM, _MAP_GET_NEXT_KEY = 1, 2, 3, 4
_PROG_TEST_RUN = 10
_OBJ_GET_INFO_BY_FD = 15
_RAW_TRACEPOINT_OPEN = 17
_ENABLE_STATS = 32

# include/uapi/linux/perf_event.h: PERF_TYPE_TRACEPOINT, PERF_ATTR_SIZE_VER0, the flag `disabled` of perf_event_attr
_TYPE_TRACEPOINT, _ATTR_SIZE, _DISABLED = 2, 64, 1
_FLAG_FD_CLOEXEC = 8
_IOC_SET_BPF = 0x40042408

# offsetof(struct bpf_prog_info, run_time_ns), and the size up to recursion_misses
_RUN_TIME_OFFSET = 192
_PROG_INFO_SIZE = 216


def _bpf(command: int, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    number = registry.BY_MACHINE[platform.machine()].bpf_syscall
    size = ctypes.c_uint(len(attributes))
    return checked(libc.syscall(ctypes.c_long(number), ctypes.c_int(command), attributes, size))


def _map_element(command: int, table: int, key: int, value: int) -> None:
    """Do a command on an element of a map. `key` and `value` are addresses, or 0. Raises OSError."""
    _bpf(command, struct.pack("=IxxxxQQQ", table, key, value, 0))


def program_stats(program: int) -> RunStats:
    """Read bpf_prog_info of the program descriptor. Fields that an older kernel lacks stay 0. Raises OSError."""
    info = ctypes.create_string_buffer(_PROG_INFO_SIZE)
    _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)))
    run_time_ns, runs, misses = struct.unpack_from("=3Q", info, _RUN_TIME_OFFSET)
    return RunStats(run_time_ns / 1e9, runs, misses)


def stack_push(stack: int, value: int) -> None:
    """Put a 32-bit number on top of a stack map. Raises OSError: E2BIG if the stack is full."""
    leaf = ctypes.c_uint32(value)
    _map_element(_MAP_UPDATE_ELEM, stack, 0, ctypes.addressof(leaf))


def stack_top(stack: int) -> int | None:
    """Return the 32-bit number on top of a stack map, which stays there; None if it is empty. Raises OSError."""
    leaf = ctypes.c_uint32()
    try:
        _map_element(_MAP_LOOKUP_ELEM, stack, 0, ctypes.addressof(leaf))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return leaf.value


def map_keys(table: int) -> list[int]:
    """Return the keys of a hash map, which are 32-bit numbers. Raises OSError.

    Only the caller may delete keys. Keys that the program adds meanwhile may be missing.
    """
    keys: dict[int, None] = {}
    key, following = ctypes.c_uint32(), ctypes.c_uint32()
    at = 0
    while True:
        try:
            _map_element(_MAP_GET_NEXT_KEY, table, at, ctypes.addressof(following))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return list(keys)
            raise
        if following.value in keys:
            return list(keys)
        keys[following.value] = None
        key.value = following.value
        at = ctypes.addressof(key)


def map_lookup(table: int, key: int, size: int) -> bytes:
    """Return the value of a key, which has `size` bytes. Raises OSError: ENOENT if there is no such key."""
    its_key, value = ctypes.c_uint32(key), ctypes.create_string_buffer(size)
    _map_element(_MAP_LOOKUP_ELEM, table, ctypes.addressof(its_key), ctypes.addressof(value))
    return value.raw


def map_update(table: int, key: int, value: bytes) -> None:
    """Store the value of a key in a hash map. Raises OSError."""
    its_key, its_value = ctypes.c_uint32(key), ctypes.create_string_buffer(value, len(value))
    _map_element(_MAP_UPDATE_ELEM, table, ctypes.addressof(its_key), ctypes.addressof(its_value))


def map_delete(table: int, key: int) -> None:
    """Delete a key of a hash map, if it exists. Raises OSError."""
    its_key = ctypes.c_uint32(key)
    try:
        _map_element(_MAP_DELETE_ELEM, table, ctypes.addressof(its_key), 0)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def permitted() -> bool:
    """Return False if the kernel refuses all bpf() calls on maps from this thread."""
    try:
        _map_element(_MAP_UPDATE_ELEM, 0xFFFFFFFF, 0, 0)
    except OSError as error:
        return error.errno != errno.EPERM
    return True


def attach_raw(program: int, event: str) -> int:
    """Attach a program to a raw tracepoint; closing the returned descriptor detaches it. Raises OSError."""
    name = ctypes.create_string_buffer(event.encode())
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QIxxxx", ctypes.addressof(name), program))


def attach_classic(program: int, event: int) -> int:
    """Attach a program to the classic tracepoint with this id; closing the returned descriptor detaches it.

    The perf event stays disabled: the program runs at each event, and perf itself does nothing. Raises OSError.
    """
    number = registry.BY_MACHINE[platform.machine()].perf_event_open_syscall
    attributes = struct.pack("=IIQQQQQ16x", _TYPE_TRACEPOINT, _ATTR_SIZE, event, 0, 0, 0, _DISABLED)
    any_process, cpu, group = ctypes.c_int(-1), ctypes.c_int(0), ctypes.c_int(-1)
    flags = ctypes.c_ulong(_FLAG_FD_CLOEXEC)
    fd = checked(libc.syscall(ctypes.c_long(number), attributes, any_process, cpu, group, flags))
    try:
        fcntl.ioctl(fd, _IOC_SET_BPF, program)
    except BaseException:
        os.close(fd)
        raise
    return fd


def enable_stats() -> int:
    """Measure the run time of all BPF programs while the returned descriptor is open. Raises OSError.

    Needs Linux 5.8 and CAP_SYS_ADMIN.
    """
    return _bpf(_ENABLE_STATS, struct.pack("=I", 0))


class TestRun:
    """Runs a raw tracepoint program in the calling thread (BPF_PROG_TEST_RUN, Linux 5.10).

    The context is the tracepoint's twelve arguments, or the record of a classic tracepoint: at most 96 bytes.
    The attribute block is built once, since a replay makes hundreds of thousands of calls. Not thread-safe.
    """

    CONTEXT_SIZE = 96
    __test__ = False  # "Test" in the name is the kernel's word: pytest must not collect this class

    def __init__(self, program: int) -> None:
        self._context = ctypes.create_string_buffer(self.CONTEXT_SIZE)
        # Not bytes: the kernel writes the return value into the block.
        self._attributes = ctypes.create_string_buffer(
            struct.pack(
                "=IIIIQQIIIIQQ",
                *(program, 0, 0, 0, 0, 0, 0, 0),
                *(self.CONTEXT_SIZE, 0, ctypes.addressof(self._context), 0),
            )
        )

    def __call__(self, context: bytes) -> int:
        """Run the program once; returns its return value. Raises OSError, or ValueError if the context is too long."""
        if len(context) > self.CONTEXT_SIZE:
            raise ValueError(f"a context of {len(context)} bytes, at most {self.CONTEXT_SIZE} are possible")
        self._context.raw = context.ljust(self.CONTEXT_SIZE, b"\0")
        _bpf(_PROG_TEST_RUN, self._attributes)
        return int(struct.unpack_from("=I", self._attributes, 4)[0])
