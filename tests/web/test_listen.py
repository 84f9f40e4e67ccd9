"""Addresses, unix sockets, and sockets that come from outside."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from exporter.web import ListenError, Web
from exporter.web.listen import listen
from tests.web.client import BODY, all_of, app
from tests.web.conftest import Serve


def over_unix(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.settimeout(20)
        raw.connect(str(path))
        raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return all_of(raw)


def test_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    web = serve(addresses=[f"unix:{path}"])
    assert web.addresses == [f"unix:{path}"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    answer = over_unix(path)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n" + BODY)
    web.close()
    assert not path.exists()


def test_a_stale_socket_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(path))
    serve(addresses=[f"unix:{path}"])
    assert over_unix(path).endswith(BODY)


def test_a_socket_in_use_and_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    first = listen(f"unix:{path}")
    with pytest.raises(ListenError) as caught:
        listen(f"unix:{path}")
    assert str(caught.value) == f"cannot listen on unix:{path}: Address already in use"
    first.close()
    path.write_text("a file")
    with pytest.raises(ListenError) as caught:
        listen(f"unix:{path}")
    assert "the file is there, and is no socket" in str(caught.value)
    assert path.read_text() == "a file"
    with pytest.raises(ListenError, match="No such file or directory"):
        listen(f"unix:{tmp_path}/no/such/folder.sock")


def test_another_instances_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    first = listen(f"unix:{path}")
    path.unlink()
    second = listen(f"unix:{path}")
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_inherited_sockets(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "systemd.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as given:
        given.bind(str(path))
        given.listen()
        web = serve(addresses=[], inherited_sockets=[socket.socket(fileno=os.dup(given.fileno()))])
        assert over_unix(path).endswith(BODY)
        web.close()
    assert path.exists(), "the file is systemd's"


def test_an_inherited_socket_must_listen() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as silent, pytest.raises(ListenError) as caught:
        Web([], [silent])
    assert "is no listening stream socket" in str(caught.value)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(ListenError):
        Web([], [datagrams])


def test_closing_before_serving_frees_the_address() -> None:
    web = Web(["127.0.0.1:0"])
    address = web.addresses[0]
    web.close()
    again = Web([address])
    again.serve(app())
    again.close()
    Web([address]).close()
