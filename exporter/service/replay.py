"""The program source of a replay: stand-ins for VMs send recorded events to a program that is not attached."""

from __future__ import annotations

from pathlib import Path

from exporter.config.options import Config
from exporter.kernel import host, launcher
from exporter.kernel.host import Formats
from exporter.kernel.privileges import Account
from exporter.model.records import CountingSince
from exporter.recording import recording
from exporter.recording.player import Player
from exporter.recording.recording import Recording, RecordingError
from exporter.service.attach import Attached, ProgramSource, StartError


class ReplaySource(ProgramSource):
    """A recording that is replayed again and again."""

    replay = True

    def __init__(self, config: Config, file: Path, speed: float, account: Account | None) -> None:
        """Load the program and start the stand-ins, as processes of `account`. Raises StartError, LoadError."""
        recorded = _recorded(file)
        self._formats = Formats(recorded.kvm_exit, recorded.kvm_userspace_exit)
        self._about = {"recording": file.name, "vms": len(recorded.vms), "speed": speed}
        self._loaded = launcher.load(host.replay_request(config, recorded.kvm_exit))
        self._received = False
        try:
            self._player = Player(recorded, self._loaded.programs, speed=speed, account=account)
        except BaseException as error:
            self._loaded.close()
            if isinstance(error, RecordingError):
                raise StartError(str(error)) from error
            raise

    def receive(self, timeout: float) -> Attached:
        """Return the program at once."""
        del timeout
        self._received = True
        clock_ns = self._player.clock_ns
        # A replay has its own clock, so no Unix time says when counting began.
        return Attached(self._loaded, self._formats, CountingSince(0.0, clock_ns()), clock_ns, recording=self._about)

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


def _recorded(file: Path) -> Recording:
    """Read the recording. Raises StartError."""
    try:
        return recording.read(file)
    except RecordingError as error:
        raise StartError(str(error)) from error
