"""The exporter as a process in the machine: start it from the checkout, read its log, stop it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import page

LOG = Path("/tmp/exporter.log")
ERROR = r'level=error|"level": ?"error"|^Traceback'
START_SECONDS = 120  # most of this time is the compilation under emulation


class Service:
    """A running `serve` with the default configuration, except for the address and the given YAML."""

    def __init__(self, configuration: str = "") -> None:
        config = Path("/tmp/config.yaml")
        config.write_text(f'web: {{listen_address: ["{page.ADDRESS}"]}}\n{configuration}')
        command = [sys.executable, "-m", "exporter", "serve", f"--config.file={config}"]
        started = time.monotonic()
        with LOG.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._poll("/-/healthy", "")
        self._poll("/metrics", r"(?m)^kvm_exit_exporter_up 1(\.0)?$")
        print(f"the exporter is up after {time.monotonic() - started:.1f} s", flush=True)

    def _poll(self, path: str, pattern: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                if re.search(pattern, page.get(path)):
                    return
            time.sleep(0.2)
        raise RuntimeError(f"{path} of the exporter never matched {pattern!r}; its log:\n{self.log()}")

    def log(self) -> str:
        """Return the log so far."""
        return LOG.read_text(errors="replace")

    def errors(self) -> list[str]:
        """Return log lines at level error, and tracebacks."""
        return [line for line in self.log().splitlines() if re.search(ERROR, line)]

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
