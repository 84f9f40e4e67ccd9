"""The rate limits: of all requests, which the web configuration file can set, and of requests to reload."""

from __future__ import annotations


class TokenBucket:
    """A token bucket: it allows `burst` requests at once, and one more every `interval` seconds."""

    def __init__(self, interval: float, burst: int) -> None:
        self._interval, self._burst = interval, burst
        self._tokens, self._updated_at = float(burst), 0.0

    def take(self, now: float) -> bool:
        """Take a token at the time `now` of the monotonic clock, in seconds. Returns False if there is none."""
        self._tokens = min(float(self._burst), self._tokens + (now - self._updated_at) / self._interval)
        self._updated_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
