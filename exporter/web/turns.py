"""Makes bodies in a worker thread, one at a time. Requests for the same body share it, and clients take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from concurrent.futures import Executor
from functools import partial
from typing import Any, Callable

from exporter.web.response import Request, Response, Route, respond, text_response
from exporter.web.stream import TimedStream

_MAX_CLIENTS = 1000
"""How many clients' turns are remembered."""


class _Job:
    """A body that is not being made yet, and the requests that wait for it."""

    def __init__(self, work: Callable[[], Response]) -> None:
        self.work = work
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.clients: dict[TimedStream, str] = {}


class Turns:
    """The bodies that requests wait for. All methods must be called in the event loop.

    A request never shares a body that was begun before the request arrived: its numbers would be too old. So there are
    at most two bodies of one shape: one in work, and one for all requests that have arrived since then. The next body
    is always one for the client whose last turn is longest ago.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._jobs: dict[Hashable, _Job] = {}
        self._last_turns: dict[str, int] = {}  # by client, the oldest turn first
        self._turns = 0
        self._worker: asyncio.Task[None] | None = None

    async def response(self, route: Route, request: Request, stream: TimedStream, client: str) -> Response:
        """Return the response to the request of a client. If the connection is closed, return status 503 at once."""
        key = (route, route.shape(request))
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(partial(respond, route, request))
        job.clients[stream] = client
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())
        waited: set[asyncio.Future[Any]] = {job.response, stream.closing}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if job.response.done():
            return job.response.result()
        del job.clients[stream]
        if not job.clients and self._jobs.get(key) is job:
            del self._jobs[key]
        return text_response(503)

    async def _work(self) -> None:
        try:
            while self._jobs:
                job = self._next()
                loop = asyncio.get_running_loop()
                job.response.set_result(await loop.run_in_executor(self._executor, job.work))
        finally:
            self._worker = None

    def _next(self) -> _Job:
        """Remove the job whose turn it is, and return it."""
        key, job = min(self._jobs.items(), key=lambda item: self._last_turn(item[1]))
        del self._jobs[key]
        self._turns += 1
        for client in job.clients.values():
            self._last_turns.pop(client, None)
            self._last_turns[client] = self._turns
        while len(self._last_turns) > _MAX_CLIENTS:
            del self._last_turns[next(iter(self._last_turns))]
        return job

    def _last_turn(self, job: _Job) -> int:
        return min(self._last_turns.get(client, 0) for client in job.clients.values())
