"""Start a stand-in process for each VM of a recording, and pass it the loaded programs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Mapping

from exporter.kernel.launcher import isolated
from exporter.kernel.privileges import Account
from exporter.recording.blocks import RecordingError
from exporter.recording.plan import ReplayPlan


class Player:
    """A running replay: one stand-in process for each VM."""

    def __init__(
        self,
        plan: ReplayPlan,
        programs: Mapping[str, int],
        *,
        speed: float = 1.0,
        endless: bool = True,
        account: Account | None = None,
    ) -> None:
        """Start the processes as `account`; None stands for the present user. When this returns, the replay has begun.

        `programs` are descriptors of the loaded programs by name. Raises RecordingError.
        """
        self._speed = speed
        how = {"speed": speed, "endless": endless, "account": account}
        self._processes = [self._start(plan, number, programs, how) for number in range(len(plan.rooms))]
        for process in self._processes:
            assert process.stdout
            error = process.stdout.readline().rstrip("\n")
            if error or process.poll() is not None:
                self.close()
                raise RecordingError(error or f"a stand-in for a VM ended with status {process.returncode}")
        self._base_ns = time.monotonic_ns()
        for process in self._processes:
            assert process.stdin
            process.stdin.write(f"{self._base_ns}\n")
            process.stdin.flush()

    @staticmethod
    def _start(
        plan: ReplayPlan, number: int, programs: Mapping[str, int], how: Mapping[str, object]
    ) -> subprocess.Popen[str]:
        order = {
            "recording": str(plan.file.path.resolve()),
            "descriptor": plan.file.descriptor,
            "vm": number,
            "programs": dict(programs),
            **how,
        }
        # The last argument reserves room: the stand-in writes the VM's command line over its own.
        room = "." * plan.rooms[number]
        process = subprocess.Popen(
            [*isolated("exporter.recording.vm"), room],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(*programs.values(), *filter(None, (plan.file.descriptor,))),
            start_new_session=True,  # only the daemon gets Ctrl-C, and then ends the stand-ins
            text=True,
        )
        assert process.stdin
        with contextlib.suppress(BrokenPipeError):  # the process has ended; its standard output may say why
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        return process

    def clock_ns(self) -> int:
        """The time of the replay in ns, on the clock of the replayed events.

        This clock is `speed` times as fast as real time.
        """
        elapsed = time.monotonic_ns() - self._base_ns
        return self._base_ns + round(elapsed * self._speed)

    def join(self) -> None:
        """Wait until every VM has replayed all its events. With an endless replay it waits forever."""
        for process in self._processes:
            assert process.stdout
            process.stdout.readline()

    def ended(self) -> bool:
        """True if a stand-in has ended. No stand-in should end before close()."""
        return any(process.poll() is not None for process in self._processes)

    def pids(self) -> list[int]:
        """Process IDs of the stand-ins, in the order of the recording's VMs."""
        return [process.pid for process in self._processes]

    def close(self) -> None:
        """End the stand-ins."""
        for process in self._processes:
            assert process.stdin
            assert process.stdout
            process.stdin.close()
            process.wait()
            process.stdout.close()
