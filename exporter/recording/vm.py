"""A stand-in for a recorded VM: a process with the VM's command line, and a thread for each of its vCPUs.

The threads have the names of the recorded threads and replay their events. player.py starts the process.

Standard input: a line of JSON that says what to replay, then a line with the start time on the monotonic clock. The
process ends when standard input is closed. Standard output: an empty line when the process is ready, or a line with the
error. A replay that is not endless prints the line "done" at its end.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from exporter.kernel import privileges
from exporter.kernel.syscall import TestRun
from exporter.recording import recording, tracks
from exporter.recording.blocks import RecordingFile
from exporter.recording.command_line import command_line

_PR_SET_NAME = 15
_LEAST_PASS_NS = 1_000_000
"""Shortest pass. Without it, the endless replay of a recording with only one moment would take all CPU time."""
_libc = ctypes.CDLL(None, use_errno=True)


def name_thread(comm: bytes) -> None:
    """Set the comm of the calling thread, cut to 15 bytes."""
    _libc.prctl(_PR_SET_NAME, comm[:15] + b"\0", 0, 0, 0)


def take_command_line(argv: Sequence[str]) -> None:
    """Change this process's /proc/PID/cmdline to `argv`, by overwriting the memory that the kernel reads it from.

    The last argument of the process reserves the room. Unused room looks like empty arguments.
    """
    stat = Path("/proc/self/stat").read_bytes().rsplit(b")", 1)[1].split()
    start, end = int(stat[45]), int(stat[46])  # arg_start, arg_end: fields 48 and 49 of proc(5)
    wanted = b"".join(argument.encode() + b"\0" for argument in argv)[: end - start]
    ctypes.memmove(start, wanted.ljust(end - start, b"\0"), end - start)


class StandInVcpu(threading.Thread):
    """A thread that replays one vCPU's events at their recorded times."""

    def __init__(self, play: Play, track: tracks.Track, start_ns: int) -> None:
        """`start_ns`: the time of the recording's first event in this pass, on the clock of the replay."""
        super().__init__(daemon=True)
        self._play = play
        self._track = track
        self._start_ns = start_ns

    def run(self) -> None:
        """Replay all events: once or, if `endless`, again and again until the process ends.

        If the thread ended in the recording, this thread ends too, and a new thread plays the next pass.
        """
        play = self._play
        name_thread(self._track.thread.comm)
        run = {name: TestRun(fd) for name, fd in play.programs.items()}
        for call in tracks.passes(self._track, play.duration_ns, play.endless):
            now = self._start_ns + call.ns
            ahead = (now - play.base_ns) / play.speed - (time.monotonic_ns() - play.base_ns)
            if ahead > 0:
                time.sleep(ahead / 1e9)
            run[call.program](call.context + now.to_bytes(8, sys.byteorder))
        if play.endless and self._track.ended:
            StandInVcpu(play, self._track, self._start_ns + play.duration_ns).start()


class Play(NamedTuple):
    """The values of the replay that all threads of a stand-in share."""

    programs: Mapping[str, int]
    """Descriptors by name."""
    base_ns: int
    """When the replay began, on the monotonic clock."""
    speed: float
    """The replay is this many times as fast as the recording."""
    duration_ns: int
    """Length of a pass, in recorded time."""
    endless: bool


def main() -> None:
    """Read the recording, print that this process is ready, and replay from the start time until stdin is closed."""
    order = json.loads(sys.stdin.readline())
    # The file may come from anybody. Running a loaded program needs no privilege. If an old kernel asks for one, drop()
    # keeps it.
    privileges.drop(privileges.Account(*order["account"]) if order["account"] else None)
    try:
        recorded = recording.read(RecordingFile(Path(order["recording"]), order["descriptor"]))
        found = tracks.read(recorded, order["vm"])
    except recording.RecordingError as error:
        print(error, flush=True)
        return
    argv = command_line(recorded.vms[order["vm"]], recorded.machine)
    take_command_line(argv)
    name_thread(Path(argv[0]).name.encode())
    print("", flush=True)
    base_ns = int(sys.stdin.readline() or os._exit(0))
    duration_ns = max(_LEAST_PASS_NS, recorded.last_ns - recorded.first_ns)
    play = Play(order["programs"], base_ns, order["speed"], duration_ns, order["endless"])
    vcpus = [StandInVcpu(play, track, base_ns) for track in found]
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
