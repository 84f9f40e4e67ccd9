"""Worker threads for jobs that may hang in a read."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Job = TypeVar("Job")

#: Largest number of workers that are not stuck. If this number of reads hang, another job must wait.
MAX_WORKERS = 4
#: Largest number of stuck workers. From this number on, a new job must not hang.
MAX_STUCK = 32


@dataclass(eq=False)
class Worker:
    """A worker thread."""

    busy_since: float | None = None
    """The time when its job began, in seconds of the pool's clock; None while it has no job."""
    stuck: bool = False
    """Its job has taken too long, and another worker may be started in its place."""


class WorkerPool(Generic[Job]):
    """A queue of jobs, and the daemon threads that do them. Threads are started when they are needed.

    `lock` is the owner's lock. The owner holds it when it calls a method. `work` does a job, in a worker's thread and
    without the lock. Its second argument is True if MAX_STUCK workers are stuck. Then the job must not hang, because no
    other worker may be started in its place. So there is always a worker for the next job. A worker whose job takes
    `stuck_after` seconds of `clock` (monotonic) is stuck. If the job of a stuck worker returns later, the worker
    continues, or ends if the pool has enough workers.
    """

    def __init__(
        self,
        work: Callable[[Job, bool], None],
        lock: threading.Condition,
        *,
        clock: Callable[[], float],
        stuck_after: float,
    ) -> None:
        self.workers: set[Worker] = set()
        self.closed = False
        self._queue: deque[Job] = deque()
        self._watched = False
        """A thread watches the queue. Otherwise a job would wait for the next call of the owner."""
        self._work = work
        self._lock = lock
        self._clock = clock
        self._stuck_after = stuck_after

    def submit(self, job: Job) -> None:
        """Put a job into the queue, and wake the workers that have no job. Does not start a worker."""
        self._queue.append(job)
        self._lock.notify_all()

    def start_workers(self) -> None:
        """Find the stuck workers, and start as many workers as the queue needs and the limits allow."""
        now = self._clock()
        for worker in self.workers:
            if worker.busy_since is not None and now - worker.busy_since >= self._stuck_after:
                worker.stuck = True
        stuck = sum(worker.stuck for worker in self.workers)
        idle = sum(worker.busy_since is None for worker in self.workers)
        room = min(MAX_WORKERS - (len(self.workers) - stuck), MAX_WORKERS + MAX_STUCK - len(self.workers))
        for _ in range(0 if self.closed else min(room, len(self._queue) - idle)):
            worker = Worker()
            self.workers.add(worker)
            try:
                threading.Thread(target=self._run, args=(worker,), name="vm-lookup", daemon=True).start()
            except RuntimeError:
                # The system has no more threads. The next call tries again.
                self.workers.discard(worker)
                return
        if self._queue and not self._watched and not self.closed:
            self._watched = True
            try:
                threading.Thread(target=self._watch, name="vm-lookup-watch", daemon=True).start()
            except RuntimeError:
                self._watched = False

    def close(self) -> None:
        """Drop the queue and let the workers end.

        Workers are daemon threads, so a job that hangs does not delay the exit.
        """
        self.closed = True
        self._queue.clear()
        self._lock.notify_all()

    def _watch(self) -> None:
        """Replace stuck workers until the queue is empty."""
        with self._lock:
            while self._queue and not self.closed:
                self._lock.wait(self._stuck_after)
                self.start_workers()
            self._watched = False

    def _run(self, worker: Worker) -> None:
        try:
            while self._do_next(worker):
                pass
        finally:
            with self._lock:
                self.workers.discard(worker)

    def _do_next(self, worker: Worker) -> bool:
        """Wait for a job and do it. Returns False if the worker has to end."""
        with self._lock:
            worker.busy_since = None
            if worker.stuck and sum(not other.stuck for other in self.workers) < MAX_WORKERS:
                worker.stuck = False
            while not self._queue and not self.closed and not worker.stuck:
                self._lock.wait()
            if self.closed or worker.stuck:
                return False
            job = self._queue.popleft()
            worker.busy_since = self._clock()
            must_not_hang = sum(other.stuck for other in self.workers) >= MAX_STUCK
        self._work(job, must_not_hang)
        return True
