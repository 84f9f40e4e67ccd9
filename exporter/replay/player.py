"""Start the stand-ins for a recording's VMs and give them the loaded programs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from exporter.replay.recording import Recording

_PACKAGE_ROOT = Path(__file__).parent.parent.parent


class Player:
    """A running replay. `clock_ns` is its time: the monotonic clock, `speed` times as fast."""

    def __init__(
        self,
        recording: Recording,
        folder: Path,
        programs: Mapping[str, int],
        *,
        speed: float = 1.0,
        endless: bool = True,
    ) -> None:
        self._speed = speed
        # Time for the stand-ins to read the recording, so that they start together.
        self._base_ns = time.monotonic_ns() + 2 * 10**9
        self._processes = []
        for number, vm in enumerate(recording.vms):
            order = {
                "recording": str(folder.resolve()),
                "vm": number,
                "programs": {name: fd for name, fd in programs.items() if name.startswith("kvm_")},
                "base_ns": self._base_ns,
                "speed": speed,
                "endless": endless,
            }
            room = "." * sum(len(argument.encode()) + 1 for argument in vm.argv)
            process = subprocess.Popen(
                [sys.executable, "-m", "exporter.replay.vm", room],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=tuple(programs.values()),
                cwd=_PACKAGE_ROOT,
                text=True,
            )
            assert process.stdin
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            self._processes.append(process)

    def clock_ns(self) -> int:
        """Return the replay's time now, in the same scale as the events' stamps."""
        elapsed = time.monotonic_ns() - self._base_ns
        return self._base_ns + round(elapsed * self._speed)

    def join(self) -> None:
        """Wait until every VM has replayed all its events; only for a replay that ends."""
        for process in self._processes:
            assert process.stdout
            process.stdout.readline()

    def pids(self) -> list[int]:
        """Process IDs of the stand-ins, in the recording's order."""
        return [process.pid for process in self._processes]

    def close(self) -> None:
        """End the stand-ins."""
        for process in self._processes:
            assert process.stdin and process.stdout
            process.stdin.close()
            process.wait()
            process.stdout.close()
