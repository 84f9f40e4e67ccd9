"""The server listens on addresses, on unix sockets, and on inherited sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from exporter.web.listen import ListenError, listen
from exporter.web.server import WebServer
from tests.web.client import BODY, all_of, app
from tests.web.conftest import Serve


def over_unix(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.settimeout(20)
        raw.connect(str(path))
        raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return all_of(raw)


def test_the_server_serves_on_a_unix_socket_and_removes_it(serve: Serve, tmp_path: Path) -> None:
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


def test_a_socket_in_use_and_a_path_that_is_no_socket_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    first = listen(f"unix:{path}")
    with pytest.raises(ListenError) as caught:
        listen(f"unix:{path}")
    assert str(caught.value) == f"cannot listen on unix:{path}: Address already in use"
    first.close()
    path.write_text("a file")
    with pytest.raises(ListenError) as caught:
        listen(f"unix:{path}")
    assert "the file exists and is not a socket" in str(caught.value)
    assert path.read_text() == "a file"
    with pytest.raises(ListenError, match="No such file or directory"):
        listen(f"unix:{tmp_path}/no/such/folder.sock")


def test_the_socket_of_another_instance_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    first = listen(f"unix:{path}")
    path.unlink()
    second = listen(f"unix:{path}")
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def owner(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for chown")
def test_a_socket_bound_by_root_gets_the_new_owner(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    web = WebServer([f"unix:{path}", "127.0.0.1:0"])
    web.chown(3989, 4001)
    assert owner(path) == (0o660, 3989, 4001)
    web.close()
    assert not path.exists()
    os.chown(tmp_path, -1, 4003)
    tmp_path.chmod(0o2750)
    web = WebServer([f"unix:{path}"])
    web.chown(3989, 4001)
    assert owner(path) == (0o660, 3989, 4003), "in a setgid folder the group must stay"
    web.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for chown")
def test_a_file_in_place_of_the_socket_keeps_its_owner(tmp_path: Path) -> None:
    path, other = tmp_path / "web.sock", tmp_path / "roots"
    other.touch(0o600)
    listener = listen(f"unix:{path}")
    path.unlink()
    for put_in_place in (os.symlink, os.link):
        put_in_place(other, path)
        listener.chown(3989, 4001)
        assert owner(other) == (0o600, 0, 0)
        path.unlink()
    with pytest.raises(ListenError) as caught:
        listener.chown(3989, 4001)
    assert str(caught.value) == f"cannot change the owner of unix:{path} to user 3989: No such file or directory"
    listener.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a socket of another user")
def test_root_replaces_a_stale_socket_of_another_user(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    left = listen(f"unix:{path}")
    left.chown(3989, 4001)
    left.socket.close()
    serve(addresses=[f"unix:{path}"])
    assert over_unix(path).endswith(BODY)


def test_the_server_serves_on_an_inherited_socket_and_keeps_its_file(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "systemd.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as given:
        given.bind(str(path))
        given.listen()
        web = serve(addresses=[], inherited_sockets=[socket.socket(fileno=os.dup(given.fileno()))])
        assert over_unix(path).endswith(BODY)
        web.close()
    assert path.exists(), "the file belongs to systemd"


def test_an_inherited_socket_must_be_listening() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as silent, pytest.raises(ListenError) as caught:
        WebServer([], [silent])
    assert "is not a listening stream socket" in str(caught.value)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(ListenError):
        WebServer([], [datagrams])


def test_close_before_serve_frees_the_address() -> None:
    web = WebServer(["127.0.0.1:0"])
    address = web.addresses[0]
    web.close()
    again = WebServer([address])
    again.serve(app())
    again.close()
    WebServer([address]).close()
