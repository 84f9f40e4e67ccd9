"""The open connections: their time limits, their number, and the choice of a connection to close at a limit."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator

from exporter.web.counts import Counts
from exporter.web.scrapes import longest_stalled
from exporter.web.stream import TimedStream

REQUEST_SECONDS = 10.0
"""Limit from the first byte of a request to its last byte.

On a new connection, it begins with accept(), and includes the TLS handshake.
"""
IDLE_SECONDS = 120.0
"""Limit between two requests."""
WRITE_SECONDS = 30.0
"""Limit for a client that reads nothing of its response."""
RESPONSE_SECONDS = 300.0
"""Limit for a whole response, even if the client reads without a pause."""

_MAX_CONNECTIONS = 1000
_RESERVED_DESCRIPTORS = 128
"""Descriptors that are reserved for the rest of the exporter: maps, programs, files in /proc."""


def max_connections() -> int:
    """Return how many connections the limit of descriptors (RLIMIT_NOFILE) allows: from 16 to 1000."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(16, min(_MAX_CONNECTIONS, soft - _RESERVED_DESCRIPTORS))


class Connections:
    """All connections by state: new, awaited, idle, busy. In each state the oldest is first."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit = limit
        self.clock = clock
        self.counts = Counts()
        # Dictionaries, because they keep the order of insertion.
        self._new: dict[TimedStream, None] = {}  # without a request yet
        self._awaited: dict[TimedStream, None] = {}  # with the header of a request, and without its whole body
        self._idle: dict[TimedStream, None] = {}  # between two requests
        self._busy: dict[TimedStream, None] = {}
        self._states = {"new": self._new, "no_body": self._awaited, "idle": self._idle, "busy": self._busy}

    def __len__(self) -> int:
        return sum(map(len, self._states.values()))

    def __iter__(self) -> Iterator[TimedStream]:
        """Iterate over a copy of the connections, because closing a connection removes it."""
        return iter([stream for streams in self._states.values() for stream in streams])

    def add(self, stream: TimedStream) -> None:
        """Add a new connection."""
        self._new[stream] = None

    def body_awaited(self, stream: TimedStream) -> None:
        """Note that a client has sent a header and withholds the body. If places are short, it is closed first."""
        self.closed(stream)
        self._awaited[stream] = None

    def request_began(self, stream: TimedStream) -> None:
        """Make a connection busy: a whole request has arrived."""
        self.closed(stream)
        self._busy[stream] = None

    def request_ended(self, stream: TimedStream) -> None:
        """Make a connection idle: the response has been sent."""
        self._busy.pop(stream, None)
        self._idle[stream] = None

    def closed(self, stream: TimedStream) -> None:
        """Remove a connection that is closed."""
        for streams in self._states.values():
            streams.pop(stream, None)

    @property
    def by_state(self) -> dict[str, int]:
        """Number of open connections in each state. Any thread may read it."""
        return {name: len(streams) for name, streams in self._states.items()}

    @property
    def busy(self) -> int:
        """Number of requests whose response is not complete."""
        return len(self._busy)

    @property
    def any_new(self) -> bool:
        """True if a connection has not sent a whole request yet."""
        return bool(self._awaited or self._new)

    def make_room(self) -> bool:
        """Close the least important connection.

        Returns False if every connection has a request and a client that reads the response.

        It closes the connection that has withheld a body longest, or else the oldest connection without a request. If
        every connection has one, it closes the connection that has been idle longest. If none is idle, it closes the
        connection that has been stalled longest. A scraper sends its request long before a flood makes its connection
        the oldest without a request.
        """
        for streams in (self._awaited, self._new, self._idle):
            if streams:
                next(iter(streams)).close_for("connection_limit")
                return True
        stalled = longest_stalled(self._busy, self.clock())
        if stalled:
            stalled.close_for("connection_limit")
        return stalled is not None

    def close_overdue(self) -> None:
        """Close each connection that has exceeded its time limit."""
        now = self.clock()
        for stream in self:
            cause = self._overdue(stream, now)
            if cause:
                stream.close_for(cause)

    def _overdue(self, stream: TimedStream, now: float) -> str:
        """Return the cause for closing a connection, or ""."""
        if stream in self._busy:
            assert stream.busy_since is not None
            too_long = stream.stalled_seconds(now) > WRITE_SECONDS or now - stream.busy_since > RESPONSE_SECONDS
            return "response_timeout" if too_long else ""
        since = stream.accepted_at if stream in self._new else stream.receiving_since
        if since is not None and now - since > REQUEST_SECONDS:
            return "request_timeout"
        return "idle_timeout" if stream in self._idle and now - stream.idle_since > IDLE_SECONDS else ""
