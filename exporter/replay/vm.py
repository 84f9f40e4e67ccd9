"""A stand-in for a VM: a process with its command line whose threads, named like its vCPUs, replay their events.

Run with -m by the player. Standard input: a JSON line that says what to replay, then the time to start at; the
process ends when it closes. Standard output: an empty line when ready, or what is wrong; "done" at an end.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from exporter.bpf.syscall import TestRun
from exporter.replay import recording

_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)


def name_thread(comm: str) -> None:
    """Set the calling thread's comm (15 bytes at most, the kernel cuts the rest)."""
    _libc.prctl(_PR_SET_NAME, comm.encode()[:15] + b"\0", 0, 0, 0)


def take_command_line(argv: tuple[str, ...]) -> None:
    """Make /proc/PID/cmdline read as `argv`: overwrite the memory that the kernel shows there.

    The player leaves enough room behind our own arguments. What is left over reads as empty arguments.
    """
    stat = Path("/proc/self/stat").read_bytes().rsplit(b")", 1)[1].split()
    start, end = int(stat[45]), int(stat[46])  # arg_start, arg_end: fields 48 and 49 of proc(5)
    wanted = b"".join(argument.encode() + b"\0" for argument in argv)[: end - start]
    ctypes.memmove(start, wanted.ljust(end - start, b"\0"), end - start)


class Vcpu(threading.Thread):
    """One vCPU thread. Its events keep the recorded time; `speed` is how fast that time passes."""

    def __init__(
        self, comm: str, events: Iterator[recording.Event], programs: Mapping[str, int], base_ns: int, speed: float
    ) -> None:
        super().__init__(daemon=True)
        self._comm = comm
        self._events = events
        self._programs = programs
        self._base_ns = base_ns
        self._speed = speed

    def run(self) -> None:
        """Replay to the end, which an endless replay never reaches."""
        name_thread(self._comm)
        run = {name: TestRun(fd) for name, fd in self._programs.items()}
        for event in self._events:
            ahead = event.ns / self._speed - (time.monotonic_ns() - self._base_ns)
            if ahead > 0:
                time.sleep(ahead / 1e9)
            run[event.program](event.context + (self._base_ns + event.ns).to_bytes(8, sys.byteorder))


def main() -> None:
    """Replay one VM of a recording: read it, say so, start when told, and end with standard input."""
    order = json.loads(sys.stdin.readline())
    try:
        recorded = recording.read(Path(order["recording"]))
        vm = recorded.vms[order["vm"]]
        events = recording.read_events(recorded, vm)
    except recording.RecordingError as error:
        print(error, flush=True)
        return
    take_command_line(vm.argv)
    name_thread(Path(vm.argv[0]).name)
    print("", flush=True)
    base_ns = int(sys.stdin.readline() or os._exit(0))
    vcpus = [
        Vcpu(
            vm.comms[tid],
            recording.passes(recorded_events, events.duration_ns, order["endless"]),
            order["programs"],
            base_ns,
            order["speed"],
        )
        for tid, recorded_events in events.by_tid.items()
    ]
    for vcpu in vcpus:
        vcpu.start()
    if not order["endless"]:
        for vcpu in vcpus:
            vcpu.join()
        print("done", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
