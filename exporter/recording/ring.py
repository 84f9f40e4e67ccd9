"""The BPF ring buffer of record.bpf.c, mapped into this process: two positions and the data.

Linux 5.8, kernel/bpf/ringbuf.c. The first page of the map holds the consumer's position, which this process writes. The
second page holds the producer's position. The data follow. They are mapped twice in a row, so that an event that wraps
around the end can be read in one piece.
"""

from __future__ import annotations

import mmap
import select
import struct
import threading

from exporter.recording.events import WHAT_SIZE

_EVENT = struct.Struct(f"<8xQ{WHAT_SIZE}s")
"""A record in the ring: the kernel's header of 8 bytes, the time, the rest of struct event."""

# include/uapi/linux/bpf.h: the two highest bits of the length in the header.
_BUSY_BIT = 1 << 31
_DISCARD_BIT = 1 << 30
_LENGTH = _EVENT.size - 8

_AT_ONCE = 16384
"""Largest number of events of one read(). After each read() the program can use the room of these events again."""


class RingError(Exception):
    """The ring cannot be mapped, or holds a record that the program cannot have written.

    The message is one line for the operator.
    """


class Ring:
    """The consumer of the ring. There must be only one."""

    def __init__(self, fd: int, size: int) -> None:
        """`fd` is the map, `size` the bytes of its data. Raises RingError."""
        page = mmap.PAGESIZE
        self._size = size
        try:
            self._ours = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._theirs = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        except OSError as error:
            raise RingError(
                f"cannot map the ring buffer of {size >> 10}K: {error.strerror}; try a smaller --ring-size"
            ) from error
        # After the cast to 64-bit numbers, a position is written with one store. The kernel must never see half a
        # position.
        self._consumed, self._produced = memoryview(self._ours).cast("Q"), memoryview(self._theirs).cast("Q")
        self._words = memoryview(self._theirs).cast("I")
        self._order = threading.Lock()
        # Edge-triggered: otherwise poll() would return for every single event, not only when the program wakes it.
        self._poll = select.epoll()
        self._poll.register(fd, select.EPOLLIN | select.EPOLLET)

    def wait(self, seconds: float) -> None:
        """Sleep until the program wakes the reader, `seconds` at most."""
        self._poll.poll(max(0.0, seconds))

    def read(self) -> list[tuple[int, bytes]]:
        """Take complete events in order: the time in ns, and the 32 bytes of the event. At most 16,384 are taken.

        Raises RingError.
        """
        start, end = self._consumed[0], self._produced[0]
        self._barrier()
        at = mmap.PAGESIZE + start % self._size
        words = self._words[at // 4 : (at + min(end - start, _AT_ONCE * _EVENT.size)) // 4]
        lengths = words[:: _EVENT.size // 4].tolist()
        taken = self._complete(lengths)
        # A weakly ordered CPU must not read the data before the lengths, because the lengths say which data are
        # complete.
        self._barrier()
        data = self._theirs[at : at + taken * _EVENT.size]
        self._barrier()
        self._consumed[0] = start + taken * _EVENT.size
        events = list(_EVENT.iter_unpack(data))
        if any(length & _DISCARD_BIT for length in lengths[:taken]):
            return [event for event, length in zip(events, lengths) if not length & _DISCARD_BIT]
        return events

    def pending(self) -> bool:
        """True if the ring holds an event that was not read. The event may be incomplete."""
        return self._consumed[0] != self._produced[0]

    def close(self) -> None:
        """Unmap the ring. The kernel frees it when its last descriptor is closed."""
        self._poll.close()
        for view in (self._consumed, self._produced, self._words):
            view.release()
        for mapped in (self._ours, self._theirs):
            mapped.close()

    @staticmethod
    def _complete(lengths: list[int]) -> int:
        """Number of records before the first one that is still being written. Raises RingError."""
        if lengths.count(_LENGTH) == len(lengths):
            return len(lengths)
        for number, length in enumerate(lengths):
            if length & _BUSY_BIT:
                return number
            if length & ~_DISCARD_BIT != _LENGTH:
                raise RingError(f"the ring buffer holds a record of {length & ~_DISCARD_BIT} bytes")
        return len(lengths)

    def _barrier(self) -> None:
        """Complete all earlier loads and stores before any later ones, by two acquires and releases of a lock."""
        for _ in range(2):
            with self._order:
                pass
