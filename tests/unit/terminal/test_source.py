"""The sources of top: an exporter, top's own programs, and the choice between them."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

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


def test_the_default_url_is_the_listen_address(tmp_path: Path) -> None:
    for listens, url in (
        (":9939", "http://localhost:9939"),
        ("0.0.0.0:1234", "http://localhost:1234"),
        ("[::]:1234", "http://localhost:1234"),
        ("[fe80::1]:9939", "http://[fe80::1]:9939"),
        ("10.1.2.3:80", "http://10.1.2.3:80"),
        ("unix:/run/x", "http://localhost:9939"),
    ):
        config = Config(web=Web(listen_address=(listens,)))
        assert list(map(str, source.default_addresses(config, tmp_path))) == [url]


def test_the_exporter_s_own_socket_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "web.sock").touch()
    found = list(map(str, source.default_addresses(Config(), tmp_path)))
    assert found == [f"unix:{tmp_path}/web.sock", "http://localhost:9939"]


class Fixed:
    """A source with one fixed reading."""

    poll_seconds, remote = 1.0, False
    first_seconds = 0.0

    def __init__(self, name: str, *, replay: bool = False, uid: int | None = 0) -> None:
        self.name = self.described = name
        self.uid = uid
        self.first = reading(1, replay=replay, since_ns=1)

    def read(self) -> Reading:
        return self.first

    def close(self) -> None:
        pass


HERE = Address("localhost", 9939)


def refuse(*_: object) -> Any:
    raise SourceError("no answer")


def no_root() -> source.Source:
    raise SourceError("no root")


def chosen(
    kind: str, own: Any, exporter: Callable[[Address], Any], trusted: Collection[int] | None = (0,)
) -> tuple[source.Source, str]:
    return source.choose(kind, [HERE], own, exporter, trusted)


def test_auto_chooses_the_exporter_if_the_exporter_counts_this_host() -> None:
    own, real, replay = Fixed("own"), Fixed("E"), Fixed("E (a replay)", replay=True)
    assert chosen("auto", lambda: own, lambda _: real) == (
        real,
        "reading E, which runs already (--source own: count with own BPF programs)",
    )
    assert chosen("auto", lambda: own, lambda _: replay) == (
        own,
        "counting with own BPF programs: E (a replay) does not count this host's exits",
    )
    assert chosen("auto", lambda: own, refuse) == (own, "counting with own BPF programs: no answer")
    assert chosen("exporter", lambda: own, lambda _: replay) == (replay, "reading E (a replay)")
    assert chosen("own", lambda: own, lambda _: real) == (own, "counting with own BPF programs")
    with pytest.raises(SourceError, match=r"^no root \(no answer\)$"):
        chosen("auto", no_root, refuse)
    with pytest.raises(SourceError, match=r"^no root$"):
        chosen("own", no_root, refuse)


@pytest.mark.parametrize("uid", [1000, None])
def test_auto_does_not_trust_a_process_of_another_user(uid: int | None) -> None:
    """While no exporter runs, every local user can listen on its port."""
    own, foreign = Fixed("own"), Fixed("E (a process of user mallory)", uid=uid)
    assert chosen("auto", lambda: own, lambda _: foreign) == (
        own,
        "counting with own BPF programs: E (a process of user mallory) is not this host's exporter",
    )
    assert chosen("auto", lambda: own, lambda _: foreign, trusted=None)[0] is foreign
    assert chosen("exporter", lambda: own, lambda _: foreign)[0] is foreign


def test_the_next_address_is_used_if_the_first_does_not_answer() -> None:
    asked = []

    def exporter(address: Address) -> Any:
        asked.append(address)
        return refuse() if len(asked) == 1 else Fixed("E")

    second = Address("localhost", 1)
    found, _ = source.choose("auto", [HERE, second], no_root, exporter, [0])
    assert (found.name, asked) == ("E", [HERE, second])


def test_root_the_exporter_s_user_and_the_present_user_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1007)
    nobody = pwd.getpwnam("nobody").pw_uid
    assert source.trusted_users(Config(run_as="daemon")) == {0, 1007, pwd.getpwnam("daemon").pw_uid}
    assert source.trusted_users(Config(run_as="no-such-user")) == {0, 1007, nobody}


def test_the_source_own_needs_kvm_and_tracefs(tmp_path: Path) -> None:
    (tmp_path / "kernel/tracing/events/sched").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"^the tracepoint kvm:kvm_exit does not exist: KVM is not loaded; "):
        OwnSource(Config(), sysfs=tmp_path)
    with pytest.raises(SourceError, match=r"^tracefs is not mounted; mount -t tracefs"):
        OwnSource(Config(), sysfs=tmp_path / "none")
