"""Accepts connections in the event loop. If a limit is reached, it closes old connections."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from exporter.common.logs import event
from exporter.web.connections import Connections

log = logging.getLogger(__name__)

_MAX_ACCEPTS = 1000
"""New connections that are accepted in a row, before the loop serves the open ones."""
_PAUSE_SECONDS = 0.1
_LOG_AGAIN_SECONDS = 3600.0


class Acceptor:
    """Accepts the connections of listening sockets, and calls `serve(connection, address)` for each of them."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        connections: Connections,
        serve: Callable[[socket.socket, Any], None],
    ) -> None:
        self._sockets = sockets
        self._connections = connections
        self._serve = serve
        self._stopped = False
        self._log_again_at = 0.0

    def start(self) -> None:
        """Accept connections from now on. Must be called in the event loop."""
        for listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def stop(self) -> None:
        """Accept no more connections. Must be called in the event loop."""
        self._stopped = True
        for listening in self._sockets:
            asyncio.get_running_loop().remove_reader(listening)

    def _accept(self, listening: socket.socket) -> None:
        """Accept all waiting connections, then serve them. If a limit is reached, close old connections."""
        accepted: deque[tuple[socket.socket, Any]] = deque()
        for _ in range(_MAX_ACCEPTS):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                break
            except OSError as error:  # the process has no free descriptor or memory
                self._log_full(error.strerror or str(error))
                if not self._connections.make_room():
                    self._pause(listening)
                break
            if len(self._connections) + len(accepted) >= self._connections.limit:
                self._log_full(f"{self._connections.limit} connections")
                if accepted and not self._connections.any_new:
                    accepted.popleft()[0].close()
                    self._connections.counts.closed["connection_limit"] += 1
                elif not self._connections.make_room():
                    connection.close()
                    self._connections.counts.closed["connection_limit"] += 1
                    continue
            accepted.append((connection, address))
        for connection, address in accepted:
            self._serve(connection, address)

    def _pause(self, listening: socket.socket) -> None:
        """Stop accepting for a moment. Otherwise the loop would spin, because the socket stays readable."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)

        def resume() -> None:
            if not self._stopped:
                loop.add_reader(listening, self._accept, listening)

        loop.call_later(_PAUSE_SECONDS, resume)

    def _log_full(self, limit: str) -> None:
        """Log, at most once an hour, that a limit is reached."""
        now = time.monotonic()
        if now >= self._log_again_at:
            self._log_again_at = now + _LOG_AGAIN_SECONDS
            event(log, "warn", "too many connections: new ones close the oldest idle ones", limit=limit)
