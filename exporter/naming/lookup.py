"""Identity of vCPU threads, found out in the background: a scrape must not wait on /proc.

Reading a VM's command line takes the VM's mmap_lock, which can be held for minutes (memory that is being
preallocated, a stuck FUSE mount). So worker threads read, and whoever asks gets what is known by then.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from exporter.model.records import ThreadKey
from exporter.model.vm import Vcpu, Vm
from exporter.naming.identity import identify, start_time, unknown
from exporter.naming.vcpu import index_from_comm, vcpu_index

#: Workers that may read at once: that many VMs can hang before any other has to wait.
_WORKERS = 4
#: A worker that sits in one key for this part of `patience` is given up for another.
_STUCK = 0.25
#: Workers given up and still hanging. With this many none is replaced any more: what is asked then gets the
#: fallback when its patience is over, and a worker whose read returns after all goes back to work.
_MAX_ABANDONED = 32
#: How often wait_known() looks, in seconds.
_CHECK_INTERVAL = 0.01


#: (pid, start time), or the pid and one thread of it where the start time could not be read.
_VmKey = tuple[int, Union[int, ThreadKey, None]]


@dataclass(eq=False)
class _VmLookup:
    """A VM: what is known of it, and the threads that are of it."""

    vm: Vm | None = None
    threads: set[ThreadKey] = field(default_factory=set)


@dataclass(eq=False)
class _ThreadLookup:
    comm: bytes
    vcpu_id: int | None
    submitted: float
    index: str | None = None
    machine_key: _VmKey | None = None
    served: Vcpu | None = None


@dataclass(eq=False)
class _Worker:
    busy_since: float | None = None
    abandoned: bool = False


class Lookup:
    """Names for vCPU keys.

    A process is asked once for (pid, start time), however many threads it has. An exec changes neither of the
    two and so does not change a VM's identity. What get() has returned for a key stays so until the key is
    forgotten, because labels must not change under a running series; and a VM of which one thread was given
    the fallback keeps it for all its threads. All methods may be called from any thread, and none but
    wait_known() waits.

    `clock` (seconds, monotonic) measures `patience`, the time that an answer may take before the fallback:
    the pid for a name, no uuid, "unknown" for a VMM.
    """

    def __init__(self, proc: Path, *, clock: Callable[[], float] = time.monotonic, patience: float = 5.0) -> None:
        self._proc = proc
        self._clock = clock
        self._patience = patience
        self._lock = threading.Condition()
        self._threads: dict[ThreadKey, _ThreadLookup] = {}
        self._machines: dict[_VmKey, _VmLookup] = {}
        self._unserved: dict[ThreadKey, _ThreadLookup] = {}
        self._given_up: dict[int, set[ThreadKey]] = {}
        self._queue: deque[ThreadKey] = deque()
        self._workers: set[_Worker] = set()
        self._closed = False

    @property
    def pending(self) -> int:
        """Number of submitted keys for which get() would return None."""
        with self._lock:
            now = self._clock()
            return sum(self._is_pending(thread, now) for thread in self._unserved.values())

    def submit(self, key: ThreadKey, comm: bytes, vcpu_id: int | None) -> None:
        """Have a thread looked up; does nothing for a key that is already known."""
        with self._lock:
            if key not in self._threads:
                self._threads[key] = self._unserved[key] = _ThreadLookup(comm, vcpu_id, self._clock())
                self._queue.append(key)
                self._lock.notify_all()
            self._staff()

    def preset(self, key: ThreadKey, vcpu: Vcpu) -> None:
        """Take over what an earlier process has found out of a thread that may be gone by now."""
        with self._lock:
            self._threads[key] = _ThreadLookup(b"", None, self._clock(), index=vcpu.index, served=vcpu)

    def get(self, key: ThreadKey) -> Vcpu | None:
        """The vCPU, or None while it is being looked up (or was never submitted)."""
        with self._lock:
            self._staff()
            thread = self._threads.get(key)
            if thread is None:
                return None
            if thread.served is None:
                thread.served = self._answer(key, thread)
                if thread.served is not None:
                    self._unserved.pop(key, None)
            return thread.served

    def wait_known(self, timeout: float) -> bool:
        """Wait until nothing is pending, `timeout` seconds at most; True if nothing is."""
        deadline = time.monotonic() + timeout
        with self._lock:
            while True:
                self._staff()
                now = self._clock()
                if not any(self._is_pending(thread, now) for thread in self._unserved.values()):
                    return True
                left = deadline - time.monotonic()
                if left <= 0 or self._closed:
                    return False
                self._lock.wait(min(left, _CHECK_INTERVAL))

    def forget(self, keys: Iterable[ThreadKey]) -> None:
        """Free what is kept for these keys, and for VMs none of whose threads is left."""
        with self._lock:
            for key in keys:
                thread = self._threads.pop(key, None)
                self._unserved.pop(key, None)
                self._take_up(key)
                machine_key = thread.machine_key if thread else None
                if machine_key is not None:
                    machine = self._machines[machine_key]
                    machine.threads.discard(key)
                    if not machine.threads:
                        del self._machines[machine_key]

    def close(self) -> None:
        """Send the workers home; one that hangs in a read is a daemon thread and holds nothing up."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            self._lock.notify_all()

    # _answer(), _take_up(), _is_pending() and _staff() are called with the lock held.

    def _answer(self, key: ThreadKey, thread: _ThreadLookup) -> Vcpu | None:
        machine = self._machines[thread.machine_key] if thread.machine_key else None
        vm = machine.vm if machine else None
        if vm is None:
            if self._clock() - thread.submitted < self._patience:
                return None
            vm = unknown(key.pid)
            if machine:
                machine.vm = vm
            else:
                # Its VM is not even known to be one yet: remember, for when a thread of that process is.
                self._given_up.setdefault(key.pid, set()).add(key)
        index = index_from_comm(thread.comm, thread.vcpu_id) if thread.index is None else thread.index
        return Vcpu(vm, index)

    def _take_up(self, key: ThreadKey) -> None:
        keys = self._given_up.get(key.pid, set())
        keys.discard(key)
        if not keys:
            self._given_up.pop(key.pid, None)

    def _is_pending(self, thread: _ThreadLookup, now: float) -> bool:
        known = thread.machine_key is not None and self._machines[thread.machine_key].vm is not None
        return not known and now - thread.submitted < self._patience

    def _staff(self) -> None:
        """See that somebody works on the queue."""
        now = self._clock()
        for worker in self._workers:
            if worker.busy_since is not None and now - worker.busy_since >= self._patience * _STUCK:
                worker.abandoned = True
        abandoned = sum(worker.abandoned for worker in self._workers)
        idle = sum(worker.busy_since is None for worker in self._workers)
        room = min(_WORKERS - (len(self._workers) - abandoned), _WORKERS + _MAX_ABANDONED - len(self._workers))
        for _ in range(0 if self._closed else min(room, len(self._queue) - idle)):
            worker = _Worker()
            self._workers.add(worker)
            try:
                threading.Thread(target=self._work, args=(worker,), name="vm-lookup", daemon=True).start()
            except RuntimeError:
                # No more threads to be had: the fallback serves, and the next call tries again.
                self._workers.discard(worker)
                return

    def _work(self, worker: _Worker) -> None:
        try:
            while self._look_up_next(worker):
                pass
        finally:
            with self._lock:
                self._workers.discard(worker)

    def _look_up_next(self, worker: _Worker) -> bool:
        """Wait for a key and look it up; False when the worker should go."""
        with self._lock:
            worker.busy_since = None
            on_duty = sum(not other.abandoned for other in self._workers)
            if worker.abandoned and on_duty < _WORKERS:
                worker.abandoned = False
            while not self._queue and not self._closed and not worker.abandoned:
                self._lock.wait()
            if self._closed or worker.abandoned:
                return False
            key = self._queue.popleft()
            thread = self._threads.get(key)
            worker.busy_since = self._clock()
        if thread is not None:
            self._look_up(key, thread)
        return True

    def _look_up(self, key: ThreadKey, thread: _ThreadLookup) -> None:
        started = start_time(key.pid, self._proc)
        index = vcpu_index(thread.comm, thread.vcpu_id, key.pid, key.tid, self._proc)
        machine_key: _VmKey = (key.pid, key if started is None else started)
        with self._lock:
            if self._threads.get(key) is not thread or thread.machine_key is not None:
                return  # forgotten meanwhile, or forgotten and submitted again
            thread.index, thread.machine_key = index, machine_key
            asked = machine_key in self._machines
            machine = self._machines.setdefault(machine_key, _VmLookup())
            machine.threads.add(key)
            if machine.vm is None and key.pid in self._given_up:
                machine.vm = unknown(key.pid)
            self._take_up(key)
            if asked or machine.vm is not None:
                return
        vm = identify(key.pid, self._proc)
        now = start_time(key.pid, self._proc)
        if started is not None and now is not None and now != started:
            vm = unknown(key.pid)  # the pid went to another process meanwhile
        with self._lock:
            if machine.vm is None:
                machine.vm = vm
