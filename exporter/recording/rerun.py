"""Run all events of a recording through the counting program, as fast as possible, and collect its counts.

The program counts each event for the thread that it runs in. So this module starts one thread for each recorded thread.
The collected records have the recorded pids, tids and names.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from exporter.collect.collector import Collector
from exporter.kernel import program
from exporter.kernel.launcher import Launcher
from exporter.kernel.program import Loaded
from exporter.kernel.syscall import TestRun
from exporter.model.records import Snapshot, ThreadKey, VcpuRecord
from exporter.model.vm import Vcpu
from exporter.naming.reasons import ReasonNames
from exporter.readings import reading
from exporter.readings.reading import Reading
from exporter.recording.events import PROGRAM_OF_KIND, Event, Kind, encoder
from exporter.recording.recording import EventRun, RecordedThread, Recording, RecordingError
from exporter.recording.vm import name_thread

_STACK_BYTES = 1 << 18
_COLLECT_EVERY = 64
"""Number of ended threads after which the maps are read. This frees the slots of these threads.

The collector can keep only a limited number of ended threads.
"""


def rerun(recorded: Recording, loaded: Loaded) -> tuple[Snapshot, Mapping[ThreadKey, Vcpu]]:
    """Count all events of the recording; returns its vCPUs at the time of the last event, and their identities.

    The program must have been loaded with clock_in_context, and must not have counted before. Raises RecordingError.
    """
    counting = _CountedReplay(recorded, loaded)
    try:
        for runs in recorded.runs():
            for run in runs:
                counting.count(run)
        return counting.result()
    finally:
        counting.close()


def readings(loader: Launcher, recorded: Recording) -> tuple[Reading, Reading]:
    """The reading before the first event of the recording, and the reading after the last one.

    `loader` has a late replay request. Raises LoadError and RecordingError.
    """
    loader.choose(program.isa_of(recorded.kvm_exit).name)
    loaded = loader.wait()
    try:
        snapshot, vcpus = rerun(recorded, loaded)
    finally:
        loaded.close()
    names = ReasonNames(recorded.kvm_exit, recorded.kvm_userspace_exit)
    since_ns = recorded.first_ns
    first = reading.nothing(since_ns, replay=True)
    return first, reading.reading_of(snapshot, vcpus.get, names.lookup, since_ns=since_ns, replay=True)


class _CountedReplay:
    def __init__(self, recorded: Recording, loaded: Loaded) -> None:
        self._recorded = recorded
        self._loaded = loaded
        self._context = encoder(recorded.kvm_exit)
        self._now = 0
        # With this linger time, an ended thread is only in the collection that finds it, and in no later one.
        self._collector = Collector(loaded, lambda: self._now, linger_ns=1)
        self._slots = loaded.layouts["slots"].entries - 1
        self._workers: dict[RecordedThread, _ReplayThread] = {}
        self._ended: list[_ReplayThread] = []
        self._threads: dict[int, RecordedThread] = {}
        self._ended_records: list[VcpuRecord] = []

    def count(self, run: EventRun) -> None:
        worker = self._workers.get(run.thread)
        if worker is None:
            worker = self._workers[run.thread] = self._start(run.thread)
        worker.play(run)
        if run.events[-1].kind == Kind.THREAD_END:
            self._ended.append(self._workers.pop(run.thread))
            if len(self._ended) == _COLLECT_EVERY:
                self._collect()

    def _start(self, thread: RecordedThread) -> _ReplayThread:
        if len(self._workers) == self._slots:
            raise RecordingError(
                f"{self._recorded.path} has more than {self._slots} vCPU threads at a time: raise limits.vcpus"
            )
        if len(self._workers) + len(self._ended) == self._slots:
            self._collect()
        self._threads[thread.number] = thread
        return _ReplayThread(thread, self._loaded.programs, self._context)

    def _collect(self) -> Snapshot:
        self._now += 1
        snapshot = self._collector.collect()
        self._ended_records += [record for record in snapshot.vcpus if not record.alive]
        for worker in self._ended:
            worker.end()
        self._ended.clear()
        return snapshot

    def result(self) -> tuple[Snapshot, Mapping[ThreadKey, Vcpu]]:
        self._now = max(self._now, self._recorded.last_ns - 1)
        snapshot = self._collect()
        records = {}
        for record in (*self._ended_records, *(record for record in snapshot.vcpus if record.alive)):
            thread = self._threads[int(record.comm)]
            key = ThreadKey(thread.tgid, thread.tid, record.key.born_ns)
            records[thread.number] = replace(record, key=key, comm=thread.comm)
        vcpus = {record.key: self._recorded.vcpus[number] for number, record in records.items()}
        return replace(snapshot, vcpus=[records[number] for number in sorted(records)]), vcpus

    def close(self) -> None:
        for worker in (*self._workers.values(), *self._ended):
            worker.end()
        self._collector.close()


class _ReplayThread:
    """A thread that plays the events of one recorded thread. Its comm is the number of the recorded thread.

    result() finds the recorded thread by that comm. It cannot use the tid: in a PID namespace the kernel program sees
    another tid than this process.
    """

    def __init__(self, thread: RecordedThread, programs: Mapping[str, int], context: Callable[[Event], bytes]) -> None:
        self._comm = str(thread.number).encode()
        self._programs = programs
        self._context = context
        self._runs: queue.SimpleQueue[EventRun | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        before = threading.stack_size(_STACK_BYTES)
        try:
            self._thread = threading.Thread(target=self._loop, daemon=True)
            self._thread.start()
        finally:
            threading.stack_size(before)

    def _loop(self) -> None:
        name_thread(self._comm)
        programs = {kind: TestRun(self._programs[name]) for kind, name in PROGRAM_OF_KIND.items()}
        while (run := self._runs.get()) is not None:
            known: dict[Event, bytes] = {}
            try:
                for ns, event in zip(run.times, run.events):
                    context = known.get(event)
                    if context is None:
                        context = known[event] = self._context(event)
                    programs[event.kind](context + ns.to_bytes(8, sys.byteorder))
                self._done.put(None)
            except BaseException as error:  # play() raises this exception in the caller's thread
                self._done.put(error)

    def play(self, run: EventRun) -> None:
        """Run the programs for these events, and wait until they have run. Raises every exception of the thread."""
        self._runs.put(run)
        error = self._done.get()
        if error:
            raise error

    def end(self) -> None:
        """End the thread."""
        self._runs.put(None)
        self._thread.join()
