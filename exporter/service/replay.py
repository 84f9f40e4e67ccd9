"""The program source of a replay: stand-ins for VMs send recorded events to a program that is not attached."""

from __future__ import annotations

import contextlib
from pathlib import Path

from exporter.config.options import Config
from exporter.kernel import host
from exporter.kernel.host import Formats
from exporter.kernel.launcher import Launcher
from exporter.kernel.privileges import Account
from exporter.model.records import CountingSince
from exporter.recording import recording
from exporter.recording.blocks import RecordingError, RecordingFile
from exporter.recording.plan import read_plan
from exporter.recording.player import Player
from exporter.service.attach import Attached, ProgramSource, StartError


class ReplaySource(ProgramSource):
    """A recording that is replayed again and again."""

    replay = True

    def __init__(self, config: Config, file: Path, speed: float, account: Account | None) -> None:
        """Load the program and start the stand-ins, as processes of `account`. Raises StartError, LoadError, OSError.

        Only processes of `account` read the recording, and nothing is started before its limits are checked.
        """
        try:
            self._file = RecordingFile.opened(file)
            plan = read_plan(self._file, account)
        except RecordingError as error:
            raise StartError(str(error)) from error
        self._about = {"recording": file.name, "vms": len(plan.rooms), "speed": speed}
        with contextlib.closing(Launcher(host.late_replay_request(config))) as loader:
            loader.choose(plan.front)
            self._loaded = loader.wait()
        self._received = False
        try:
            self._player = Player(plan, self._loaded.programs, speed=speed, account=account)
        except BaseException as error:
            self._loaded.close()
            if isinstance(error, RecordingError):
                raise StartError(str(error)) from error
            raise

    def receive(self, timeout: float) -> Attached:
        """Return the program at once. Raises StartError."""
        del timeout
        try:
            formats = Formats(*recording.read_formats(self._file))
        except RecordingError as error:
            raise StartError(str(error)) from error
        self._received = True
        clock_ns = self._player.clock_ns
        # A replay has its own clock, so no Unix time says when counting began.
        return Attached(self._loaded, formats, CountingSince(0.0, clock_ns()), clock_ns, recording=self._about)

    def discard(self) -> None:
        """Do nothing: the program of a replay always ends with its process."""

    def broken(self) -> str:
        """Return the reason, in a few words, if a stand-in ended, else ""."""
        return "a stand-in for a VM ended: the replay is no longer complete" if self._player.ended() else ""

    def close(self) -> None:
        """End the stand-ins. Free the program if receive() did not return it."""
        self._player.close()
        if not self._received:
            self._loaded.close()
