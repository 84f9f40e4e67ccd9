"""The sources of top: an exporter, top's own programs, and the choice between them."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path

import pytest

from exporter.config.options import Config, Web
from exporter.readings.reading import Reading
from exporter.terminal import source
from exporter.terminal.address import Address
from exporter.terminal.source import ExporterSource, OwnSource, SourceError
from tests.support.readings import reading


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_an_answer_that_never_ends_is_an_error(head: bytes) -> None:
    """Each byte comes in time, but the whole answer has a deadline too."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(head)
                while not over.wait(0.02):
                    connection.sendall(b"x")

        threading.Thread(target=drip, daemon=True).start()
        there = Address(*server.getsockname())
        try:
            with pytest.raises(SourceError, match=rf"^no complete answer from {re.escape(str(there))} within 0\.3 s$"):
                ExporterSource(there, 0.3)
        finally:
            over.set()


def test_the_default_url_is_the_listen_address() -> None:
    for listens, url in (
        (":9939", "http://localhost:9939"),
        ("0.0.0.0:1234", "http://localhost:1234"),
        ("[::]:1234", "http://localhost:1234"),
        ("[fe80::1]:9939", "http://[fe80::1]:9939"),
        ("10.1.2.3:80", "http://10.1.2.3:80"),
        ("unix:/run/x", "http://localhost:9939"),
    ):
        assert str(source.default_address(Config(web=Web(listen_address=(listens,))))) == url


class Fixed:
    """A source with one fixed reading."""

    poll_seconds, remote = 1.0, False
    first_seconds = 0.0

    def __init__(self, name: str, *, replay: bool = False) -> None:
        self.name = name
        self.first = reading(1, replay=replay, since_ns=1)

    def read(self) -> Reading:
        return self.first

    def close(self) -> None:
        pass


HERE = Address("localhost", 9939)


def refuse(*_: object) -> source.Source:
    raise SourceError("no answer")


def no_root() -> source.Source:
    raise SourceError("no root")


def test_auto_chooses_the_exporter_if_the_exporter_counts_this_host() -> None:
    own, real, replay = Fixed("own"), Fixed("E"), Fixed("E (a replay)", replay=True)
    chosen, said = source.choose("auto", HERE, lambda: own, lambda _: real)
    assert (chosen, said) == (real, "reading E, which runs already (--source own: count with own BPF programs)")
    chosen, said = source.choose("auto", HERE, lambda: own, lambda _: replay)
    assert (chosen, said) == (own, "counting with own BPF programs: E (a replay) does not count this host's exits")
    chosen, said = source.choose("auto", HERE, lambda: own, refuse)
    assert (chosen, said) == (own, "counting with own BPF programs: no answer")
    assert source.choose("exporter", HERE, lambda: own, lambda _: replay) == (replay, "reading E (a replay)")
    assert source.choose("own", HERE, lambda: own, lambda _: real) == (own, "counting with own BPF programs")
    with pytest.raises(SourceError, match=r"^no root \(no answer\)$"):
        source.choose("auto", HERE, no_root, refuse)
    with pytest.raises(SourceError, match=r"^no root$"):
        source.choose("own", HERE, no_root, refuse)


def test_the_source_own_needs_kvm_and_tracefs(tmp_path: Path) -> None:
    (tmp_path / "kernel/tracing/events/sched").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"^the tracepoint kvm:kvm_exit does not exist: KVM is not loaded; "):
        OwnSource(Config(), sysfs=tmp_path)
    with pytest.raises(SourceError, match=r"^tracefs is not mounted; mount -t tracefs"):
        OwnSource(Config(), sysfs=tmp_path / "none")
