"""Run the exporter in a separate process, with or without a stand-in for systemd."""

from __future__ import annotations

import array
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[str, list[tuple[dict[str, str], float]]]

# Start the exporter as sd_listen_fds(3) describes. The passed descriptors begin at 3, and LISTEN_PID is the exporter's
# pid.
_PASS = """
import fcntl, os, sys
fds = [int(fd) for fd in sys.argv[1].split(",") if fd]
aside = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 500) for fd in fds]
for fd in fds:
    os.close(fd)
for number, fd in enumerate(aside):
    os.dup2(fd, 3 + number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "exporter", *sys.argv[2:]])
"""


class Logging:
    """A child process. A thread reads the log that the process writes to its standard error."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], fds: Sequence[int]) -> None:
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ, pass_fds=fds)
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))

    def logged(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Wait until `times` lines of the log match the pattern. Return the last match."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            # This check must come before the search.
            over = self.process.poll() is not None and not self._reader.is_alive()
            found = [match for line in list(self.log) if (match := re.search(pattern, line))]
            if len(found) >= times:
                return found[-1]
            if over:
                break
            time.sleep(0.02)
        raise AssertionError(f"{pattern} not in {self.log}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout=30)
        self._reader.join(timeout=10)
        return status


class Service(Logging):
    """The process `python3 -m exporter`."""

    def __init__(self, *arguments: str, systemd: FakeSystemd | None = None, prefix: Sequence[str] = ()) -> None:
        command, environ, fds = command_of(arguments, systemd)
        super().__init__([*prefix, *command], environ, fds)

    def get(self, path: str) -> str:
        address = self.logged(r"msg=listening address=(\S+)")[1].replace("[::]", "localhost")
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def scrape(self, path: str = "/metrics") -> Samples:
        samples: Samples = {}
        for family in text_string_to_metric_families(self.get(path)):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
        return samples

    def settled(self) -> Samples:
        """Scrape until every vCPU has its name. A vCPU is missing from the page while it is being looked up."""
        deadline = time.monotonic() + 30
        while (samples := self.scrape())["kvm_exit_exporter_lookups_pending"] != [({}, 0.0)]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return samples

    def value(self, name: str, path: str = "/metrics") -> float:
        ((_, value),) = self.scrape(path)[name]
        return value

    def of_thread(self, name: str, tid: int) -> dict[str, float]:
        """Return the values of a thread by reason."""
        return {labels["reason"]: value for labels, value in self.settled().get(name, []) if labels["tid"] == str(tid)}

    def status(self) -> dict[str, str]:
        """Return the fields of the process's /proc/PID/status."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return {key: " ".join(value.split()) for key, _, value in (line.partition(":") for line in text.splitlines())}


def command_of(
    arguments: Sequence[str], systemd: FakeSystemd | None
) -> tuple[list[str], Mapping[str, str], Sequence[int]]:
    """Return the exporter's command, environment and descriptors, with or without the stand-in for systemd."""
    if systemd:
        return systemd.command(arguments)
    return [sys.executable, "-m", "exporter", *arguments], os.environ, ()


class FakeSystemd:
    """A stand-in for systemd. It receives notifications, stores descriptors, and passes them to the next start."""

    def __init__(self, address: str) -> None:
        self.messages: list[str] = []
        self.store: list[tuple[str, int]] = []
        self.environ: dict[str, str] = {"NOTIFY_SOCKET": address}
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        if not address.startswith("@"):
            os.chmod(address, 0o777)
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        size = array.array("i").itemsize
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(8192, socket.CMSG_SPACE(64 * size))
            except OSError:
                return
            if not data:  # close() was called
                return
            fds = array.array("i")
            for level, kind, content in ancillary:
                assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                fds.frombytes(content[: len(content) - len(content) % size])
            lines = data.decode().split("\n")
            fields = dict(line.split("=", 1) for line in lines)
            with self._lock:
                self.messages += lines
                if "FDSTORE" in fields:
                    assert fields["FDPOLL"] == "0"
                    self.store += [(fields["FDNAME"], fd) for fd in fds]
                if "FDSTOREREMOVE" in fields:
                    for name, fd in [entry for entry in self.store if entry[0] == fields["FDNAME"]]:
                        os.close(fd)
                        self.store.remove((name, fd))

    def names(self) -> set[str]:
        with self._lock:
            return {name for name, _ in self.store}

    def wait_for(self, message: str, times: int = 1) -> None:
        deadline = time.monotonic() + 60
        while self.messages.count(message) < times:
            assert time.monotonic() < deadline, self.messages
            time.sleep(0.01)

    def command(self, arguments: Sequence[str]) -> tuple[list[str], Mapping[str, str], tuple[int, ...]]:
        with self._lock:
            names, fds = [name for name, _ in self.store], tuple(fd for _, fd in self.store)
        environ = {**os.environ, **self.environ, "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(names)}
        return [sys.executable, "-c", _PASS, ",".join(map(str, fds)), *arguments], environ, fds

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for _, fd in self.store:
            os.close(fd)
