"""A recording as the daemon's program: the program is loaded and not attached, and stand-ins for VMs feed it."""

from __future__ import annotations

from pathlib import Path

from exporter.config.options import Config
from exporter.kernel import host, launcher
from exporter.kernel.host import Formats
from exporter.kernel.privileges import Account
from exporter.model.records import CountingSince
from exporter.recording import recording
from exporter.recording.player import Player
from exporter.service.attach import Attached, ProgramSource

NOTICE = "This is a replay of a recording, not this host."
"""Stands on the page."""


class ReplaySource(ProgramSource):
    """A recording that is replayed again and again."""

    replay = True

    def __init__(self, config: Config, file: Path, speed: float, account: Account | None) -> None:
        """Load the program and start the stand-ins, as processes of `account`. Raises RecordingError, LoadError."""
        recorded = recording.read(file)
        self._formats = Formats(recorded.kvm_exit, recorded.kvm_userspace_exit)
        self._about = {"recording": file.name, "vms": len(recorded.vms), "speed": speed}
        self._loaded = launcher.load(host.replay_request(config, recorded.kvm_exit))
        self._received = False
        try:
            self._player = Player(recorded, self._loaded.programs, speed=speed, account=account)
        except BaseException:
            self._loaded.close()
            raise

    def receive(self, timeout: float) -> Attached:
        """Return the program at once."""
        del timeout
        self._received = True
        clock_ns = self._player.clock_ns
        # A replay has its own clock: there is no Unix time at which it began.
        return Attached(self._loaded, self._formats, CountingSince(0.0, clock_ns()), clock_ns, recording=self._about)

    def discard(self) -> None:
        """Do nothing: no program of a replay outlives its process."""

    def broken(self) -> str:
        """A few words if a stand-in ended, else ""."""
        return "a stand-in for a VM ended: the replay is no longer complete" if self._player.ended() else ""

    def close(self) -> None:
        """End the stand-ins, and free the program if nobody received it."""
        self._player.close()
        if not self._received:
            self._loaded.close()
