"""What the server has answered, and which connections it has closed: so that an attack is seen on /metrics."""

from __future__ import annotations

from exporter.web.response import REASON_PHRASES

CAUSES = (
    "request_timeout",
    "idle_timeout",
    "response_timeout",
    "connection_limit",
    "scrape_limit",
    "body_limit",
    "tls_handshake",
)
"""Why the server closes a connection: a time limit, a place or memory that another client needs, or no valid TLS."""


class Counts:
    """Counters since the start. Only the event loop changes them; any thread may read them."""

    def __init__(self) -> None:
        self.responses = dict.fromkeys(REASON_PHRASES, 0)
        """By status. Every status is there from the beginning."""
        self.closed = dict.fromkeys(CAUSES, 0)
        """By cause."""
