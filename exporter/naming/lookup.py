"""Looks up the VMs and vCPUs of threads in the background, because a scrape must not wait for /proc.

Reading a VM's command line takes the VM's mmap_lock. Another thread can hold that lock for minutes (while it
preallocates memory, or hangs in a FUSE mount). So worker threads read /proc, and get() returns at once. If many workers
hang, the others read in child processes, which can be killed. So a read that hangs costs only its own VM.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Union

from exporter.common.procfs import has_foreign_pids, read_head, start_time
from exporter.model.records import ThreadKey
from exporter.model.vm import Vcpu, Vm
from exporter.naming.child_reader import read_head_in_child
from exporter.naming.identity import Identity, identify, identify_without_command_line, unknown
from exporter.naming.vcpu import index_from_comm, vcpu_index
from exporter.naming.workers import WorkerPool

#: A worker is stuck if it reads for this part of `patience`. Another worker may then be started in its place.
_STUCK = 0.05
#: Time between two checks of wait_known(), in seconds.
_CHECK_INTERVAL = 0.01


#: (pid, start time). If the start time is not known, one thread of the process is in its place.
_VmKey = tuple[int, Union[int, ThreadKey]]


@dataclass(eq=False)
class _VmEntry:
    """A VM's identity and its threads."""

    identity: Vm | None = None
    """None while the identity is being looked up."""
    fallback: Vm | None = None
    """The identity without the command line; None until a worker has read it."""
    name_from_path: bool = False
    name_is_shared: bool = False
    """Another running VM has the same name, so the pid is the name."""
    served: bool = False
    """get() has returned the identity, which does not change any more."""
    claim: str = ""
    """The name under which _of_name has the VM."""
    threads: set[ThreadKey] = field(default_factory=set)


@dataclass(eq=False)
class _ThreadEntry:
    """A vCPU thread."""

    comm: bytes
    vcpu_id: int | None
    submitted: float
    """Time of submit(), in seconds of the lookup's clock."""
    index: str | None = None
    """None until a worker has read it."""
    vm_key: _VmKey | None = None
    """None until a worker has read it."""
    answer: Vcpu | None = None
    """The first value that get() returned, which it always returns from then on; None before."""


class Lookup:
    """Finds the VM and the index of each vCPU thread.

    A VM's identity is read only once for each (pid, start time), for all threads of the process. An exec changes
    neither pid nor start time, so the identity stays the same.

    If an answer takes longer than `patience`, the fallback replaces it. The fallback has everything that can be known
    without the command line: its name is the one in the cgroup or the pid, and the uuid is empty. `clock` (seconds,
    monotonic) measures that time.

    The labels of a running series must not change. So get() returns the same value for a key until the key is
    forgotten. If one thread of a VM has got the fallback, all threads of the VM get it.

    A name that is a part of a path must belong to one running VM alone. If it does not, the pid is the name of each
    such VM that get() has not returned before.

    In another PID namespace than the host's, each VM gets the fallback at once, because its pid means another process.

    Any thread may call any method. Only wait_known() waits.
    """

    def __init__(self, proc: Path, *, clock: Callable[[], float] = time.monotonic, patience: float = 5.0) -> None:
        self._proc = proc
        self._foreign_pids = has_foreign_pids(proc)
        self._clock = clock
        self._patience = patience
        self._lock = threading.Condition()
        self._threads: dict[ThreadKey, _ThreadEntry] = {}
        self._vms: dict[_VmKey, _VmEntry] = {}
        #: The VMs by the name that was found for them, even if the pid is served in its place.
        self._of_name: dict[str, set[_VmKey]] = {}
        #: The threads that were submitted and have no answer yet.
        self._unanswered: dict[ThreadKey, _ThreadEntry] = {}
        #: The threads that got the fallback before their VM had an entry, by pid.
        self._fallbacks: dict[int, set[ThreadKey]] = {}
        self._pool = WorkerPool(self._look_up, self._lock, clock=clock, stuck_after=patience * _STUCK)

    @property
    def pending(self) -> int:
        """Number of submitted keys for which get() would return None."""
        with self._lock:
            now = self._clock()
            return sum(self._is_pending(thread, now) for thread in self._unanswered.values())

    def submit(self, key: ThreadKey, comm: bytes, vcpu_id: int | None) -> None:
        """Start the lookup of a thread. Does nothing for a key that was submitted or preset before."""
        with self._lock:
            if self._foreign_pids and key not in self._threads:
                self.preset(key, Vcpu(unknown(key.pid), index_from_comm(comm, vcpu_id)))
            if key not in self._threads:
                self._threads[key] = self._unanswered[key] = _ThreadEntry(comm, vcpu_id, self._clock())
                self._pool.submit(key)
            self._pool.start_workers()

    def preset(self, key: ThreadKey, vcpu: Vcpu) -> None:
        """Set the answer for a thread that an earlier process has looked up. The thread may have ended since then."""
        with self._lock:
            vm_key = (key.pid, key)
            self._threads[key] = _ThreadEntry(b"", None, self._clock(), index=vcpu.index, vm_key=vm_key, answer=vcpu)
            self._vms[vm_key] = vm = _VmEntry(vcpu.vm, served=True, threads={key})
            self._claim(vm_key, vm, vcpu.vm.name)

    def get(self, key: ThreadKey) -> Vcpu | None:
        """Return the vCPU of a thread; None while the vCPU is being looked up, or if its key was not submitted."""
        with self._lock:
            self._pool.start_workers()
            thread = self._threads.get(key)
            if thread is None:
                return None
            if thread.answer is None:
                thread.answer = self._find_answer(key, thread)
                if thread.answer is not None:
                    self._unanswered.pop(key, None)
            return thread.answer

    def wait_known(self, timeout: float) -> bool:
        """Wait until no key is pending, for `timeout` seconds at most. Returns False if a key is still pending."""
        deadline = time.monotonic() + timeout
        with self._lock:
            while True:
                self._pool.start_workers()
                now = self._clock()
                if not any(self._is_pending(thread, now) for thread in self._unanswered.values()):
                    return True
                left = deadline - time.monotonic()
                if left <= 0 or self._pool.closed:
                    return False
                self._lock.wait(min(left, _CHECK_INTERVAL))

    def forget(self, keys: Iterable[ThreadKey]) -> None:
        """Free the memory of these keys, and of each VM that has no other keys."""
        with self._lock:
            for key in keys:
                thread = self._threads.pop(key, None)
                self._unanswered.pop(key, None)
                self._discard_fallback(key)
                vm_key = thread.vm_key if thread else None
                if vm_key is not None:
                    vm = self._vms[vm_key]
                    vm.threads.discard(key)
                    if not vm.threads:
                        del self._vms[vm_key]
                        self._drop_claim(vm_key, vm)

    def close(self) -> None:
        """Stop the lookups. Does not wait for the workers to end."""
        with self._lock:
            self._pool.close()

    # The caller of _find_answer(), _discard_fallback(), _is_pending(), _claim() and _drop_claim() holds the lock.

    def _find_answer(self, key: ThreadKey, thread: _ThreadEntry) -> Vcpu | None:
        """Return the answer if it is known. Otherwise return the fallback after `patience`, and None before."""
        vm = self._vms[thread.vm_key] if thread.vm_key else None
        identity = vm.identity if vm else None
        if identity is None:
            if self._clock() - thread.submitted < self._patience:
                return None
            identity = (vm.fallback if vm else None) or unknown(key.pid)
            if vm:
                vm.identity = identity
            else:
                # The VM of this thread has no entry yet. _look_up() gives the fallback to the VM when it makes the
                # entry.
                self._fallbacks.setdefault(key.pid, set()).add(key)
        if vm:
            if vm.name_is_shared and not vm.served:
                vm.identity = identity = replace(identity, name=str(key.pid))
            vm.served = True
        index = index_from_comm(thread.comm, thread.vcpu_id) if thread.index is None else thread.index
        return Vcpu(identity, index)

    def _discard_fallback(self, key: ThreadKey) -> None:
        keys = self._fallbacks.get(key.pid, set())
        keys.discard(key)
        if not keys:
            self._fallbacks.pop(key.pid, None)

    def _is_pending(self, thread: _ThreadEntry, now: float) -> bool:
        known = thread.vm_key is not None and self._vms[thread.vm_key].identity is not None
        return not known and now - thread.submitted < self._patience

    def _look_up(self, key: ThreadKey, must_not_hang: bool) -> None:
        """Read a thread's index and, if the thread is the first of its VM, the VM's identity. Runs in a worker."""
        with self._lock:
            thread = self._threads.get(key)
        if thread is None:
            return  # the thread was forgotten before its turn
        started = start_time(self._proc / str(key.pid))
        index = vcpu_index(thread.comm, thread.vcpu_id, key.pid, key.tid, self._proc)
        vm_key: _VmKey = (key.pid, key if started is None else started)
        with self._lock:
            if self._threads.get(key) is not thread or thread.vm_key is not None:
                return  # the thread was forgotten meanwhile, perhaps submitted again
            thread.index, thread.vm_key = index, vm_key
            is_first = vm_key not in self._vms
            vm = self._vms.setdefault(vm_key, _VmEntry())
            vm.threads.add(key)
            if vm.identity is None and key.pid in self._fallbacks:
                vm.identity = unknown(key.pid)
            self._discard_fallback(key)
            if not is_first or vm.identity is not None:
                return
        fallback = identify_without_command_line(key.pid, self._proc)
        if not self._is_replaced(key.pid, started):
            vm.fallback = fallback
        read = read_head_in_child if must_not_hang else read_head
        found = identify(key.pid, self._proc, read)
        if self._is_replaced(key.pid, started):
            found = Identity(unknown(key.pid))
        self._settle(vm_key, vm, found)

    def _is_replaced(self, pid: int, started: int | None) -> bool:
        """Return whether the process with this start time has ended, and another process has its pid."""
        now = start_time(self._proc / str(pid))
        return started is not None and now is not None and now != started

    def _settle(self, vm_key: _VmKey, vm: _VmEntry, found: Identity) -> None:
        """Store the identity of a VM. Find out whether its name is shared. Runs in a worker."""
        with self._lock:
            if self._vms.get(vm_key) is not vm:
                return  # the VM was forgotten meanwhile
            vm.name_from_path = found.name_from_path
            self._claim(vm_key, vm, found.vm.name)
            sharing = {other: self._vms[other] for other in self._of_name[vm.claim] if other[0] != vm_key[0]}
            if not any(each.name_from_path for each in (vm, *sharing.values())):
                sharing = {}
        running = [other for key, other in sharing.items() if self._runs(key)]
        with self._lock:
            for each in (vm, *running) if running else ():
                each.name_is_shared = each.name_from_path
            if vm.identity is None:
                vm.identity = found.vm

    def _runs(self, vm_key: _VmKey) -> bool:
        """Return whether the process of a VM still runs. An ended VM is served for a while."""
        pid, started = vm_key
        now = start_time(self._proc / str(pid))
        return now == started if isinstance(started, int) else now is not None

    def _claim(self, vm_key: _VmKey, vm: _VmEntry, name: str) -> None:
        vm.claim = name
        self._of_name.setdefault(name, set()).add(vm_key)

    def _drop_claim(self, vm_key: _VmKey, vm: _VmEntry) -> None:
        keys = self._of_name.get(vm.claim, set())
        keys.discard(vm_key)
        if not keys:
            self._of_name.pop(vm.claim, None)
