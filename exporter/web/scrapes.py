"""The scrapes in flight: their number and the bodies that are being sent are limited, and one client cannot use up all.

A scrape is a request whose response is made in the worker thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from exporter.web.response import Response
from exporter.web.stream import TimedStream

STALLED_SECONDS = 1.0
"""A client that has read nothing of its response for this long is stalled: it may be closed if a limit is reached."""
MAX_BODIES = 96 << 20
"""Limit of all bodies that are being sent, in bytes. A body that several clients read counts once."""


@dataclass(eq=False)
class _Scrape:
    client: str
    body: Response | None = None
    """The response that is being sent."""


class Scrapes:
    """The scrapes by connection, the oldest first."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._scrapes: dict[TimedStream, _Scrape] = {}

    def __len__(self) -> int:
        return len(self._scrapes)

    def admit(self, stream: TimedStream, client: str) -> bool:
        """Count a scrape of a client as in flight. Returns False if there are too many.

        At the limit, the scrape replaces a stalled one. If no scrape is stalled, it replaces a scrape of the client
        with the most scrapes, but only if that client has more scrapes than `client` would then have. So a client that
        scrapes too often cannot block the scrapes of another client.
        """
        if len(self._scrapes) >= self._limit:
            replaced = longest_stalled(self._scrapes, self._clock()) or self._of_busiest_client(self._scrapes, client)
            if replaced is None:
                return False
            self._close(replaced, "scrape_limit")
        self._scrapes[stream] = _Scrape(client)
        return True

    def sends(self, stream: TimedStream, body: Response) -> None:
        """Note the body that is now sent to a client. If all bodies together are too large, close readers of others.

        These are the readers that are stalled longest, then readers of the client that reads most bodies.
        """
        scrape = self._scrapes.get(stream)
        if scrape is None:  # replaced meanwhile, and closed
            return
        scrape.body = body
        while self._bodies_size() > MAX_BODIES:
            others = [each for each, other in self._scrapes.items() if other.body and other.body is not body]
            if not others:
                break  # this body alone is larger
            reader = longest_stalled(others, self._clock()) or self._of_busiest_client(others) or others[0]
            self._close(reader, "body_limit")

    def release(self, stream: TimedStream) -> None:
        """Count an admitted scrape as ended."""
        self._scrapes.pop(stream, None)

    def _close(self, stream: TimedStream, cause: str) -> None:
        stream.close_for(cause)
        self._scrapes.pop(stream)

    def _bodies_size(self) -> int:
        return sum(body.size for body in {scrape.body for scrape in self._scrapes.values() if scrape.body})

    def _of_busiest_client(self, streams: Iterable[TimedStream], for_client: str = "") -> TimedStream | None:
        """Return the connection that is stalled longest, of the client with the most of these connections.

        Return None if that client has no more than `for_client` would have with another one.
        """
        of_client = {stream: self._scrapes[stream].client for stream in streams}
        counts = Counter(of_client.values())
        ((busiest, count),) = counts.most_common(1)
        if count <= counts[for_client] + 1:
            return None
        now = self._clock()
        return max(
            (stream for stream, client in of_client.items() if client == busiest),
            key=lambda stream: stream.stalled_seconds(now),
        )


def longest_stalled(streams: Iterable[TimedStream], now: float) -> TimedStream | None:
    """Return the connection that has been stalled longest; None if no connection is stalled."""
    longest = max(streams, key=lambda stream: stream.stalled_seconds(now), default=None)
    return longest if longest and longest.stalled_seconds(now) >= STALLED_SECONDS else None
