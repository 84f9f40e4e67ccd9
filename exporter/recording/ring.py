"""The BPF ring buffer of record.bpf.c, read where it lies: two counters and the data, mapped into this process.

Linux 5.8, kernel/bpf/ringbuf.c. The map's first page is the consumer's position, ours to write; the second the
producer's, the data follow and are mapped twice in a row, so that what wraps around reads in one piece.
"""

from __future__ import annotations

import mmap
import select
import struct
import threading

from exporter.recording.events import WHAT_SIZE

_EVENT = struct.Struct(f"<8xQ{WHAT_SIZE}s")
"""One record: the kernel's header of 8 bytes, the time, the rest of struct event."""

# include/uapi/linux/bpf.h: the two highest bits of the length in the header.
_BUSY_BIT = 1 << 31
_DISCARD_BIT = 1 << 30
_LENGTH = _EVENT.size - 8

_AT_ONCE = 16384
"""Events: so that room comes back to the program while much of the ring is left to be read."""


class RingError(Exception):
    """The ring cannot be read, or holds what the program cannot have written; one line for the operator."""


class Ring:
    """The consumer; there must be but one."""

    def __init__(self, fd: int, size: int) -> None:
        """`size` bytes of data, as the map was made with. Raises RingError."""
        page = mmap.PAGESIZE
        self._size = size
        try:
            self._ours = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._theirs = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        except OSError as error:
            raise RingError(
                f"cannot map the ring buffer of {size >> 10}K: {error.strerror}; try a smaller --ring-size"
            ) from error
        # A position is written as one 64-bit store: the kernel must never see half of it.
        self._consumed, self._produced = memoryview(self._ours).cast("Q"), memoryview(self._theirs).cast("Q")
        self._words = memoryview(self._theirs).cast("I")
        self._order = threading.Lock()
        # Edge-triggered: else it returns for each event as it comes, and not when the program says that it is time.
        self._poll = select.epoll()
        self._poll.register(fd, select.EPOLLIN | select.EPOLLET)

    def wait(self, seconds: float) -> None:
        """Sleep until the program wants its events taken, `seconds` at most."""
        self._poll.poll(max(0.0, seconds))

    def read(self) -> list[tuple[int, bytes]]:
        """Take events that are complete, in order: time and what it was. All there are, up to some ten thousand."""
        start, end = self._consumed[0], self._produced[0]
        self._barrier()
        at = mmap.PAGESIZE + start % self._size
        words = self._words[at // 4 : (at + min(end - start, _AT_ONCE * _EVENT.size)) // 4]
        lengths = words[:: _EVENT.size // 4].tolist()
        taken = self._complete(lengths)
        # On a weakly ordered CPU the data must not be read before the lengths that say they are there.
        self._barrier()
        data = self._theirs[at : at + taken * _EVENT.size]
        self._barrier()
        self._consumed[0] = start + taken * _EVENT.size
        events = list(_EVENT.iter_unpack(data))
        if any(length & _DISCARD_BIT for length in lengths[:taken]):
            return [event for event, length in zip(events, lengths) if not length & _DISCARD_BIT]
        return events

    def pending(self) -> bool:
        """True if there is an event that was not read, whole or just being written."""
        return self._consumed[0] != self._produced[0]

    def close(self) -> None:
        """Unmap. The kernel frees the ring with its last descriptor."""
        self._poll.close()
        for view in (self._consumed, self._produced, self._words):
            view.release()
        for mapped in (self._ours, self._theirs):
            mapped.close()

    @staticmethod
    def _complete(lengths: list[int]) -> int:
        """How many records may be read: those before the first that is being written still."""
        if lengths.count(_LENGTH) == len(lengths):
            return len(lengths)
        for number, length in enumerate(lengths):
            if length & _BUSY_BIT:
                return number
            if length & ~_DISCARD_BIT != _LENGTH:
                raise RingError(f"the ring buffer holds a record of {length & ~_DISCARD_BIT} bytes")
        return len(lengths)

    def _barrier(self) -> None:
        """Keep loads and stores before it before those after it: a release, then an acquire of one lock."""
        for _ in range(2):
            with self._order:
                pass
