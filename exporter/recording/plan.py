"""What a replay must start, found out by a process without privileges: a recording may come from anybody.

The process is `python3 -m exporter.recording.plan DESCRIPTOR PATH ACCOUNT`. It prints the plan, or the error, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from exporter.common.json_values import loads, whole
from exporter.kernel import privileges, program
from exporter.kernel.isa import registry
from exporter.kernel.launcher import isolated
from exporter.kernel.privileges import Account
from exporter.recording import recording
from exporter.recording.blocks import RecordingError, RecordingFile
from exporter.recording.command_line import command_line
from exporter.recording.recording import Recording
from exporter.recording.tracks import MAX_VMS, check_limits

_SECONDS = 120
"""Longest time for the recording with the most events, on an emulated machine."""
_MAX_ROOM = 1 << 14
_MAX_ANSWER = 1 << 16


class ReplayPlan(NamedTuple):
    """A recording that is small enough to be replayed by a process for each of its VMs."""

    file: RecordingFile
    front: str
    """Name of the ISA (kernel/isa) of its kvm_exit."""
    rooms: tuple[int, ...]
    """For each VM, the bytes of the command line of its stand-in."""


def plan_of(recorded: Recording) -> ReplayPlan:
    """Return the plan of a recording. Raises RecordingError if the recording is too large."""
    check_limits(recorded)
    commands = (command_line(vm, recorded.machine) for vm in recorded.vms)
    rooms = tuple(sum(len(argument.encode()) + 1 for argument in command) for command in commands)
    return ReplayPlan(recorded.file, program.isa_of(recorded.kvm_exit).name, rooms)


def read_plan(file: RecordingFile, account: Account | None) -> ReplayPlan:
    """Return the plan of an opened file, which a child process reads as `account`. Raises RecordingError, OSError."""
    assert file.descriptor is not None
    arguments = [str(file.descriptor), str(file.path), json.dumps(account)]
    try:
        child = subprocess.run(
            [*isolated("exporter.recording.plan"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=(file.descriptor,),
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RecordingError(f"{file.path} takes longer than {_SECONDS} s to read") from None
    try:
        answer = loads(child.stdout[:_MAX_ANSWER], 100)
        if "error" in answer:
            raise RecordingError(str(answer["error"]))
        rooms = tuple(whole(room, 1, _MAX_ROOM) for room in answer["rooms"])
        whole(len(rooms), 0, MAX_VMS)
        return ReplayPlan(file, registry.BY_NAME[answer["front"]].name, rooms)
    except (ValueError, KeyError, TypeError) as error:
        raise RecordingError(f"{file.path} cannot be read: its reader ended with {child.returncode}") from error


def main() -> None:
    """Drop the privileges, read the recording, and print its plan."""
    descriptor, path, account = sys.argv[1:4]
    become = json.loads(account)
    privileges.drop(Account(*become) if become else None)
    try:
        plan = plan_of(recording.read(RecordingFile(Path(path), int(descriptor))))
        print(json.dumps({"front": plan.front, "rooms": plan.rooms}))
    except RecordingError as error:
        print(json.dumps({"error": str(error)}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
