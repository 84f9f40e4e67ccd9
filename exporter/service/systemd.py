"""Messages and descriptors between systemd and this process: sd_notify(3), sd_listen_fds(3), the store, the watchdog.

This module also works without systemd: no message is then sent, and no descriptor is passed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, MutableMapping

from exporter.common.logs import event

log = logging.getLogger(__name__)

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_MAX_FDS = 1024
_SEND_SECONDS = 5.0


def _number(text: str) -> int:
    """Return the number in a variable of any text; 0 if the text is not a number of at most 19 digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


class Systemd:
    """The service manager, if the environment names one.

    Removes its variables from `environ`, so that no child process sends messages for this process.
    """

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.runtime_directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        """The folder that only this service's user can write to (RuntimeDirectory= of the unit); "" without one."""
        self._status = ""
        self._is_ready = False
        usec, for_pid = _number(environ.pop("WATCHDOG_USEC", "")), environ.pop("WATCHDOG_PID", str(pid))
        self.watchdog_seconds = usec / 1e6 if usec and for_pid == str(pid) else None
        """systemd kills the process if watchdog() was not called for this time; None without a watchdog."""
        count, for_pid = _number(environ.pop("LISTEN_FDS", "")), environ.pop("LISTEN_PID", "")
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        self.passed: list[tuple[str, int]] = []
        """Name and number of each passed descriptor: listening sockets, and descriptors of an earlier process."""
        for number in range(min(count, _MAX_FDS) if for_pid == str(pid) else 0):
            with contextlib.suppress(OSError):  # systemd announced this descriptor, but it is not open
                os.set_inheritable(_FIRST_FD + number, False)
                self.passed.append((names[number] if number < len(names) else "", _FIRST_FD + number))

    def __bool__(self) -> bool:
        """True if there is a manager to notify."""
        return bool(self._address)

    def ready(self) -> None:
        """Report that the service is ready."""
        self._is_ready = True
        self._send("READY=1")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Report the beginning of a reload, and its end."""
        if self._is_ready:
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            if self._is_ready:
                self._send("READY=1")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={' '.join(text.split())}")

    def watchdog(self) -> None:
        """Report that the service is alive."""
        if self.watchdog_seconds:
            self._send("WATCHDOG=1")

    def store(self, name: str, descriptor: int) -> None:
        """Store a descriptor for the next process. It stays stored even if this process is killed.

        FDPOLL=0 (systemd 246): poll() reports an error for most BPF descriptors, and systemd would then drop them.
        """
        self._send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptors=[descriptor])

    def forget(self, name: str) -> None:
        """Make systemd close the stored descriptors of this name."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def _send(self, *lines: str, descriptors: list[int] | None = None) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.settimeout(_SEND_SECONDS)
                notify.connect(self._address)
                socket.send_fds(notify, ["\n".join(lines).encode()], descriptors or [])
        except OSError as error:  # counting goes on; systemd has its own time limits
            event(log, "warn", "cannot notify systemd", what=lines[0], err=error)
