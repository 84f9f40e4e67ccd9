"""Lookups in a fake /proc. Reads of its processes can hang."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from exporter.model.vm import Vm
from exporter.naming import lookup
from exporter.naming.identity import Identity, identify
from exporter.naming.lookup import Lookup

LONG = 20.0
CPU0, CPU1 = b"CPU 0/KVM", b"CPU 1/KVM"


class Clock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Proc:
    """A fake /proc. The test can make reads of a process hang."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._fifos: list[Path] = []
        self._lookups: list[Lookup] = []

    def add(self, pid: int, name: str, *, start: int = 5, hang: str = "", socket: str = "") -> None:
        """Make a process of QEMU with this name, or of Cloud Hypervisor with this socket."""
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(f"{pid} (qemu) S " + "0 " * 18 + f"{start} 0\n")
        command = f"cloud-hypervisor --api-socket {socket}" if socket else f"qemu-kvm -name guest={name} -uuid u-{name}"
        (folder / "cmdline").write_bytes("".join(f"{word}\0" for word in command.split()).encode())
        if hang:
            (folder / hang).unlink()
            os.mkfifo(folder / hang)
            self._fifos.append(folder / hang)

    def lookup(self, clock: Callable[[], float] = time.monotonic, patience: float = LONG) -> Lookup:
        names = Lookup(self.root, clock=clock, patience=patience)
        self._lookups.append(names)
        return names

    def close(self) -> None:
        """Stop the lookups of the test. Check that their threads end."""
        for names in self._lookups:
            names.close()
        end = time.monotonic() + LONG
        while running_workers():
            assert time.monotonic() < end, "the workers must end"
            self.release()
            time.sleep(0.005)

    def release(self, content: bytes = b"", *, every: int = 1) -> None:
        """Let `every` readers of each FIFO return."""
        for fifo in self._fifos:
            for _ in range(every):
                try:
                    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
                except OSError:
                    break  # nobody reads this FIFO any more
                # The reader may have got the bytes of another writer and closed the FIFO.
                with suppress(OSError):
                    os.write(writer, content)
                os.close(writer)


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Proc]:
    tree = Proc(tmp_path)
    yield tree
    tree.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """For each pid, the number of reads of its command line."""
    counted: Counter[int] = Counter()
    real = identify

    def counting(pid: int, root: Path, read: Callable[[Path, int], bytes | None]) -> Identity:
        counted[pid] += 1
        return real(pid, root, read)

    monkeypatch.setattr(lookup, "identify", counting)
    return counted


def qemu(pid: int, name: str) -> Vm:
    return Vm(pid, name, f"u-{name}", "qemu")


def hypervisor(pid: int, name: str) -> Vm:
    return Vm(pid, name, "", "cloud-hypervisor")


def running_workers() -> int:
    return sum(thread.name == "vm-lookup" for thread in threading.enumerate())


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)
