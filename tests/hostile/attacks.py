"""The attacks: many connections from one address, each of which does one thing. A process of its own runs an attack."""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading
import time
from typing import NamedTuple

ATTACKER = "127.0.0.2"  # the good scraper has another address
_OPENED_PER_ROUND, _ROUND_SECONDS = 100, 0.1
"""A thousand connections that the target has closed are opened again in a second."""


class Attack(NamedTuple):
    """What each connection of an attack does: it sends `first`, and then reads the answer or nothing."""

    name: str
    connections: int
    first: bytes
    reads: bool = False
    drop: bytes = b""
    """Bytes that follow one by one, one in a round."""
    exporter_only: bool = False
    """Another exporter does not have the path."""


def _get(path: str, *fields: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *fields, "", "")).encode()


_GZIP = "Accept-Encoding: gzip"
ATTACKS = (
    Attack("nothing is sent", 1150, b""),
    Attack("headers in drops", 1150, b"GET /metrics HTTP/1.1\r\nX: ", drop=b"x"),
    Attack("bodies withheld", 1150, b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65536\r\n\r\n"),
    Attack("headers of 1 MB", 200, b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000, reads=True),
    Attack("malformed requests", 200, b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", reads=True),
    Attack("pages, greedily", 40, _get("/metrics", _GZIP), reads=True),
    Attack("pages, not read", 1150, _get("/metrics")),
    Attack("/-/vcpus, greedily", 40, _get("/-/vcpus"), reads=True, exporter_only=True),
    Attack("/-/vcpus, not read", 1150, _get("/-/vcpus"), exporter_only=True),
    Attack("the page at /, greedily", 40, _get("/"), reads=True, exporter_only=True),
)
SHORT = tuple(
    attack for attack in ATTACKS if attack.name in {"bodies withheld", "pages, greedily", "/-/vcpus, not read"}
)


class _Connection:
    """A connection of the attack. The socket does not block."""

    def __init__(self, attack: Attack, address: tuple[str, int], selector: selectors.BaseSelector) -> None:
        self._attack, self._selector = attack, selector
        self._rest = attack.first
        self._raw = socket.socket()
        self._raw.setblocking(False)
        if not attack.reads:
            self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        self._raw.bind((ATTACKER, 0))
        with contextlib.suppress(BlockingIOError):
            self._raw.connect(address)
        self._watched = True
        selector.register(self._raw, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def handle(self, buffer: bytearray) -> bool:
        """Send and read what is possible. Return False if the target has closed the connection."""
        try:
            if self._rest:
                self._rest = self._rest[self._raw.send(self._rest) :]
            if not self._rest and self._attack.reads:
                self._selector.modify(self._raw, selectors.EVENT_READ, self)
            elif not self._rest:
                self._ignore()
            return not self._attack.reads or self._raw.recv_into(buffer) > 0
        except BlockingIOError:
            return True
        except OSError:
            return False

    def next_round(self) -> bool:
        """Send the next drop. Return False if the target has closed the connection."""
        try:
            if self._attack.drop and not self._rest:
                self._raw.send(self._attack.drop)
            return self._attack.reads or self._raw.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Close this end."""
        self._ignore()
        self._raw.close()

    def _ignore(self) -> None:
        if self._watched:
            self._watched = False
            self._selector.unregister(self._raw)


def run(attack: Attack, address: tuple[str, int]) -> None:
    """Attack until standard input ends. Print "open" when all connections have been opened once."""
    stop = threading.Event()

    def until_the_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=until_the_end).start()
    selector, buffer = selectors.DefaultSelector(), bytearray(1 << 20)
    held: set[_Connection] = set()
    opened = 0  # not len(held): the target may close some of them before the last one is opened
    while not stop.is_set():
        for _ in range(min(_OPENED_PER_ROUND, attack.connections - len(held))):
            held.add(_Connection(attack, address, selector))
            opened += 1
            if opened == attack.connections:
                print("open", flush=True)
        closed: set[_Connection] = set()
        until = time.monotonic() + _ROUND_SECONDS
        while (left := until - time.monotonic()) > 0 and not (attack.reads and closed):
            for key, _ in selector.select(left):
                if not key.data.handle(buffer):
                    closed.add(key.data)
        closed.update(one for one in held - closed if not one.next_round())
        for one in closed:
            one.close()
        held -= closed


if __name__ == "__main__":
    run(next(attack for attack in ATTACKS if attack.name == sys.argv[1]), (sys.argv[2], int(sys.argv[3])))
