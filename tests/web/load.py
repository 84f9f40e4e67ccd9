"""2,000 bad connections to a child process, on loopback: measure good scrapes, and memory and descriptors afterwards.

    python3 -m tests.web.load       prints the figures

The child serves a page of 20 MB. A third of the connections is idle. The others send half a request, a header without
its body, a header byte by byte, a header of 1 MB or bytes that are not TLS, or they request a page and do not read it.
Connections that the server closes are opened again, a thousand per second.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

CONNECTIONS, PAGE_BYTES = 2000, 20_000_000
AGAIN = 100  # per tenth of a second, this many closed connections are opened again
BAD_HOST = "127.0.0.2"  # a loopback address that the good scraper does not use

_LINE = b'kvm_exits_total{pid="142",tid="150",vm="web-1",vcpu="0",reason="EC_WFx",class="idle"} 1597\n'
_GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Each kind of bad connection has a name, a share in percent, and the bytes that it sends first.
_KINDS = (
    ("idle", 34, b""),
    ("half a request", 10, b"GET /metrics HTT"),
    ("no body", 16, b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65536\r\n\r\n"),
    ("header in drops", 10, b"GET /metrics HTTP/1.1\r\nX: "),
    ("reads nothing", 10, _GET),
    ("no TLS", 10, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 500),
    ("1 MB header", 10, b"GET / HTTP/1.1\r\nCookie: " + b"x" * 1_000_000),
)


@dataclass
class Figures:
    """Durations of good scrapes in seconds, and the child's open descriptors and resident memory in MB.

    Descriptors and memory are measured five times: before the first flood, during it, after it, during the second flood
    and after it.
    """

    quiet: list[float]
    loaded: list[float]
    descriptors: list[int]
    memory: list[float]


def child() -> None:
    """Serve until standard input ends."""
    sys.path.insert(0, str(ROOT))
    from exporter.metrics.exposition.page import MetricsPage
    from exporter.service.routes import routes
    from exporter.web.server import WebServer

    pieces = [_LINE * 100] * (PAGE_BYTES // len(_LINE) // 100)
    web = WebServer(["127.0.0.1:0"])
    web.serve(routes(lambda *_: MetricsPage([("Content-Type", "text/plain")], pieces), "/metrics"))
    print(web.addresses[0], flush=True)
    sys.stdin.read()
    web.close()


def measure() -> Figures:
    """Start the child and flood it twice. Return the figures from before, during and after the floods."""
    need = CONNECTIONS + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, max(need, hard)))
    process = subprocess.Popen(
        [sys.executable, "-c", "from tests.web.load import child; child()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin
    assert process.stdout
    try:
        host, port = process.stdout.readline().strip().rsplit(":", 1)
        address = (host, int(port))
        quiet = [_scrape(address) for _ in range(5)]
        loaded, held = [], [_held(process.pid)]
        for _ in range(2):
            with _bad_connections(address):
                loaded += [_scrape(address) for _ in range(11)]
                held.append(_held(process.pid))
            deadline = time.monotonic() + 30
            while (after := _held(process.pid))[0] > held[0][0] and time.monotonic() < deadline:
                time.sleep(0.1)
            held.append(after)
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()
    return Figures(quiet, loaded, [one[0] for one in held], [one[1] for one in held])


def _held(pid: int) -> tuple[int, float]:
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match
    return len(os.listdir(f"/proc/{pid}/fd")), int(match[1]) / 1024


def _scrape(address: tuple[str, int]) -> float:
    """Return the seconds from the start of connecting until the last byte is received."""
    start = time.monotonic()
    with socket.create_connection(address, timeout=30) as raw:
        raw.sendall(_GET.replace(b"1.1", b"1.0"))
        head, read, buffer = b"", 0, bytearray(1 << 20)
        while count := raw.recv_into(buffer):
            head = head or bytes(buffer[:15])
            read += count
    if head != b"HTTP/1.1 200 OK" or read < PAGE_BYTES * 0.99:
        raise RuntimeError(f"a scrape was answered with {head!r} and {read} bytes")
    return time.monotonic() - start


class _Bad:
    """A bad connection."""

    def __init__(self, address: tuple[str, int], name: str, first: bytes) -> None:
        self.address, self.name, self.first = address, name, first
        self.open()

    def open(self) -> None:
        """Start to connect, and do not wait."""
        self.rest = self.first
        self.raw = socket.socket()
        self.raw.setblocking(False)
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.raw.bind((BAD_HOST, 0))
        with contextlib.suppress(BlockingIOError):
            self.raw.connect(self.address)

    def go_on(self, *, drop: bool) -> bool:
        """Send the next bytes. With `drop`, a slow header gets one more byte. Return False if the server has closed."""
        try:
            if self.rest:
                self.rest = self.rest[self.raw.send(self.rest) :]
            elif drop and self.name == "header in drops":
                self.raw.send(b"x")
            return self.raw.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False


@contextlib.contextmanager
def _bad_connections(address: tuple[str, int]) -> Iterator[None]:
    """Keep all bad connections open in another process.

    In this process, the interpreter lock would slow the good scrapes.
    """
    code = f"from tests.web.load import flood; flood({address!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline() == b"open\n"
        yield
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def flood(address: tuple[str, int]) -> None:
    """Open the connections, and open those again that the server has closed. Stop when standard input ends."""
    wanted = [(name, first) for name, share, first in _KINDS for _ in range(CONNECTIONS * share // 100)]
    # The kinds are mixed. Their order is the same in each run.
    all_bad = [_Bad(address, *wanted[number * 7919 % len(wanted)]) for number in range(len(wanted))]
    stop = threading.Event()

    def until_the_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=until_the_end).start()
    rounds = 0
    while not stop.wait(0.1):
        rounds += 1
        closed = [bad for bad in all_bad if not bad.go_on(drop=rounds % 10 == 0)]
        for bad in closed[:AGAIN]:
            bad.raw.close()
            bad.open()
        all_bad = [*all_bad[AGAIN:], *all_bad[:AGAIN]]
        if rounds == 10:
            print("open", flush=True)


def main() -> None:
    """Print the figures."""
    found = measure()
    print(f"{CONNECTIONS:,} bad connections at once, a page of {PAGE_BYTES / 1e6:.0f} MB:\n")
    print("| good scrape | median | worst |")
    print("|---|---:|---:|")
    for label, seconds in (("alone", found.quiet), ("beside them", found.loaded)):
        print(f"| {label} | {sorted(seconds)[len(seconds) // 2] * 1e3:.0f} ms | {max(seconds) * 1e3:.0f} ms |")
    print("\n| the server | before | first flood | after it | second flood | after it |")
    print("|---|---:|---:|---:|---:|---:|")
    print("| descriptors |" + "".join(f" {number} |" for number in found.descriptors))
    print("| resident memory, MB |" + "".join(f" {size:.0f} |" for size in found.memory))


if __name__ == "__main__":
    main()
