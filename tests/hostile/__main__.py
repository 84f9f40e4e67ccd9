"""Attack an exporter, and Debian's node_exporter beside it, and scrape both as Prometheus does.

    python3 -m tests.hostile          all attacks: a few minutes
    python3 -m tests.hostile --short  three of them, without node_exporter

The exporter has as many vCPUs and reasons as its default limits allow. Each attack meets a new process. The exit status
is 1 if a good scrape of the exporter was not answered, or if the exporter took more memory than its DaemonSet may have.
Times are printed, and decide nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.hostile.attacks import ATTACKS, SHORT, Attack
from tests.support.paths import ROOT

GOOD_SCRAPES, PAUSE_SECONDS, TIMEOUT_SECONDS = 20, 0.2, 10.0
"""Prometheus ends a scrape after ten seconds."""
NODE_EXPORTER = "prometheus-node-exporter"
_DESCRIPTORS = 4096


class Target(NamedTuple):
    """A running exporter."""

    pid: int
    address: tuple[str, int]

    def scrape(self) -> float | None:
        """Return how long a scrape takes, in seconds; None if no whole page comes in time."""
        request = b"GET /metrics HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n"
        started = time.monotonic()
        answer = bytearray()
        try:
            with socket.create_connection(self.address, TIMEOUT_SECONDS) as raw:
                raw.sendall(request)
                while part := raw.recv(1 << 16):
                    answer += part
                    if time.monotonic() - started > TIMEOUT_SECONDS:
                        return None
        except OSError:
            return None
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        whole = head.split(b" ", 2)[1:2] == [b"200"] and (not length or len(body) == int(length[1]))
        return time.monotonic() - started if whole and body else None

    def memory(self, field: str) -> float:
        """Return a field of the process's status, in MB: VmRSS, or VmHWM for the peak."""
        found = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0

    def connections(self) -> int:
        """Return the number of its sockets."""
        folder = f"/proc/{self.pid}/fd"
        links = []
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"{folder}/{name}"))
        return sum(link.startswith("socket:") for link in links)


@contextlib.contextmanager
def exporter() -> Iterator[Target]:
    """Start this exporter."""
    command = [sys.executable, "-m", "tests.hostile.target"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin
        assert process.stdout
        host, port = process.stdout.readline().strip().rsplit(":", 1)
        try:
            yield Target(process.pid, (host, int(port)))
        finally:
            process.stdin.close()


@contextlib.contextmanager
def node_exporter() -> Iterator[Target]:
    """Start Debian's node_exporter."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [NODE_EXPORTER, f"--web.listen-address=127.0.0.1:{port}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        target = Target(process.pid, ("127.0.0.1", port))
        while target.scrape() is None:
            time.sleep(0.1)
        try:
            yield target
        finally:
            process.terminate()


@contextlib.contextmanager
def attacked(attack: Attack, address: tuple[str, int]) -> Iterator[None]:
    """Run the attack in another process."""
    command = [sys.executable, "-m", "tests.hostile.attacks", attack.name, address[0], str(address[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        try:
            yield
        finally:
            process.stdin.close()


class Outcome(NamedTuple):
    """What an attack did to a target."""

    held: int
    answered: int
    alone: float
    p99: float
    before: float
    peak: float
    after: float

    def row(self, target: str, attack: str) -> str:
        """Return the row of the table."""
        return (
            f"| {target} | {attack} | {self.held:,} | {self.answered} of {GOOD_SCRAPES} | {self.alone * 1e3:.0f} ms "
            f"| {self.p99 * 1e3:.0f} ms | {self.before:.0f} | {self.peak:.0f} | {self.after:.0f} "
            f"| {GOOD_SCRAPES - self.answered} |"
        )


def outcome(attack: Attack, target: Target) -> Outcome:
    """Scrape alone, and then beside the attack."""
    quiet = sorted(filter(None, (target.scrape() for _ in range(5))))
    before = target.memory("VmRSS")
    times, held = [], 0
    with attacked(attack, target.address):
        for _ in range(GOOD_SCRAPES):
            times.append(target.scrape())
            held = max(held, target.connections())
            time.sleep(PAUSE_SECONDS)
    answered = sorted(filter(None, times))
    worst = answered[-1] if answered else TIMEOUT_SECONDS
    target.scrape()
    alone = quiet[len(quiet) // 2] if quiet else TIMEOUT_SECONDS
    return Outcome(held, len(answered), alone, worst, before, target.memory("VmHWM"), target.memory("VmRSS"))


def memory_limit() -> float:
    """Return the DaemonSet's limit, in MB."""
    manifest = (ROOT / "deploy/kubernetes/base/daemonset.yaml").read_text()
    found = re.search(r"limits: \{memory: (\d+)Mi\}", manifest)
    assert found
    return float(found[1])


def main(short: bool) -> int:
    """Print the table, and return the exit status."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_DESCRIPTORS, hard), hard))
    targets = [("this exporter", exporter)]
    if not short and shutil.which(NODE_EXPORTER):
        targets.append(("node_exporter", node_exporter))
    limit, failed = memory_limit(), []
    print("| target | attack | sockets held | good scrapes answered | alone | p99 | MB before | peak | after | lost |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for attack in SHORT if short else ATTACKS:
        for name, start in targets:
            if attack.exporter_only and start is not exporter:
                continue
            with start() as target:
                found = outcome(attack, target)
            print(found.row(name, attack.name), flush=True)
            if start is exporter and (found.answered < GOOD_SCRAPES or found.peak > limit):
                failed.append(attack.name)
    print(f"\nEach good scrape must be answered, and memory must stay below {limit:.0f} MB.")
    print(f"Failed: {', '.join(failed)}" if failed else "All attacks were held.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main("--short" in sys.argv[1:]))
