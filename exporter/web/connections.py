"""The connections there are: how many, which of them give way to new ones, and which have waited too long."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from exporter.web.stream import TimedStream

HEADER_SECONDS = 10.0
"""From the first byte of a request, and on a new connection from its start (TLS included), to the end of its header."""
IDLE_SECONDS = 120.0
WRITE_SECONDS = 30.0
"""For how long a client may take nothing of an answer."""
ANSWER_SECONDS = 300.0
"""For an answer as a whole, however steadily its bytes are taken one by one."""
GIVES_WAY_SECONDS = 1.0
"""A client that has taken nothing for so long gives way where a limit is reached."""

_MOST = 1000
_OTHER_DESCRIPTORS = 128
"""What the rest of the exporter may need: maps, programs, files of /proc that are being read."""


def most_connections() -> int:
    """As many as the limit of descriptors (RLIMIT_NOFILE) leaves room for, and no more than a thousand."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST
    return max(16, min(_MOST, soft - _OTHER_DESCRIPTORS))


class Connections:
    """All connections, in three states, the oldest of each first."""

    def __init__(self, most: int, most_scrapes: int, clock: Callable[[], float]) -> None:
        self.most = most
        self.clock = clock
        self._most_scrapes = most_scrapes
        # Dictionaries for their order.
        self._new: dict[TimedStream, None] = {}  # that have not asked for anything yet
        self._idle: dict[TimedStream, None] = {}  # between two requests
        self._busy: dict[TimedStream, None] = {}
        self._scrapes: dict[TimedStream, str] = {}  # to the client's address

    def __len__(self) -> int:
        return len(self._new) + len(self._idle) + len(self._busy)

    def __iter__(self) -> Iterator[TimedStream]:
        """Yield every connection, of a copy: closing one removes it."""
        return iter([*self._new, *self._idle, *self._busy])

    def add(self, stream: TimedStream) -> None:
        """Keep a new connection."""
        self._new[stream] = None

    def began(self, stream: TimedStream) -> None:
        """A request has come."""
        self._new.pop(stream, None)
        self._idle.pop(stream, None)
        self._busy[stream] = None

    def ended(self, stream: TimedStream) -> None:
        """Its answer has gone."""
        self._busy.pop(stream, None)
        self._idle[stream] = None

    def closed(self, stream: TimedStream) -> None:
        """The connection is no more."""
        for streams in (self._new, self._idle, self._busy):
            streams.pop(stream, None)

    @property
    def busy(self) -> int:
        """How many requests are being answered."""
        return len(self._busy)

    @property
    def any_new(self) -> bool:
        """Whether there is a connection that has not asked for anything yet."""
        return bool(self._new)

    def make_room(self) -> bool:
        """Close what matters least, so that a new connection can be taken; False if all that is left is at work.

        The oldest that never asked comes first, then the one that has been idle for longest, then a reader that
        stands still. A scraper has asked long before a flood makes its connection the oldest.
        """
        for streams in (self._new, self._idle):
            if streams:
                next(iter(streams)).close()
                return True
        standing = self._longest_standing(self._busy)
        if standing:
            standing.close()
        return standing is not None

    def admit(self, stream: TimedStream, peer: str) -> bool:
        """Count a scrape in flight, of the client at the address `peer`; False if there are too many.

        At the limit it takes the place of one whose reader stands still, else of one of an address that has more of
        them in flight than `peer` would have: nobody holds the scrapes of others up by asking often.
        """
        if len(self._scrapes) >= self._most_scrapes:
            given_up = self._longest_standing(self._scrapes) or self._greediest(peer)
            if given_up is None:
                return False
            given_up.close()
            self._scrapes.pop(given_up)
        self._scrapes[stream] = peer
        return True

    def _longest_standing(self, streams: Iterable[TimedStream]) -> TimedStream | None:
        now = self.clock()
        longest = max(streams, key=lambda stream: stream.stands(now), default=None)
        return longest if longest and longest.stands(now) >= GIVES_WAY_SECONDS else None

    def _greediest(self, peer: str) -> TimedStream | None:
        counts = Counter(self._scrapes.values())
        ((most, count),) = counts.most_common(1)
        if count <= counts[peer] + 1:
            return None
        now = self.clock()
        return max((one for one, of in self._scrapes.items() if of == most), key=lambda one: one.stands(now))

    def leave(self, stream: TimedStream) -> None:
        """A scrape admitted before is over."""
        self._scrapes.pop(stream, None)

    def close_overdue(self) -> None:
        """Close what has waited for too long."""
        now = self.clock()
        for stream in self:
            if stream in self._busy:
                assert stream.busy_since is not None
                overdue = stream.stands(now) > WRITE_SECONDS or now - stream.busy_since > ANSWER_SECONDS
            elif stream in self._idle:
                heard = stream.heard
                overdue = now - stream.idle_since > IDLE_SECONDS or (heard is not None and now - heard > HEADER_SECONDS)
            else:
                overdue = now - stream.accepted > HEADER_SECONDS
            if overdue:
                stream.close()
