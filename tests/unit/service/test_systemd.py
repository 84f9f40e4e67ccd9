"""Messages between systemd and the exporter, as sd_notify(3) and sd_listen_fds(3) define them."""

from __future__ import annotations

import array
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.config.options import Config, Web
from exporter.service.daemon import Daemon
from exporter.service.systemd import Systemd
from tests.support.paths import ROOT


class Listener:
    """A notification socket. Each call returns one datagram."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(5)

    def next(self) -> str:
        return self._socket.recv(4096).decode()

    def next_with_fds(self) -> tuple[str, list[int]]:
        fds = array.array("i")
        data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(64))
        for _, _, content in ancillary:
            fds.frombytes(content)
        return data.decode(), list(fds)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(str(tmp_path / "notify"))
    yield made
    made.close()


def test_without_systemd_no_message_is_sent() -> None:
    environ = {"HOME": "/", "LISTEN_FDS": "2", "WATCHDOG_USEC": "1000"}
    systemd = Systemd(environ, os.getpid())
    assert not systemd
    assert systemd.passed == []
    systemd.ready()
    systemd.status("x")
    systemd.store("x", 0)
    with systemd.reloading():
        pass
    assert environ == {"HOME": "/"}


def test_each_call_sends_its_message(listener: Listener, tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "77"}
    systemd = Systemd(environ, 77)
    assert environ == {}
    assert systemd
    assert systemd.watchdog_seconds == 3.0
    # This sends nothing before ready(). Otherwise, systemd would take the end of the reload for the end of the start.
    with systemd.reloading():
        pass
    systemd.ready()
    assert listener.next() == "READY=1"
    systemd.status("two\nlines")
    systemd.status("two\nlines")
    systemd.watchdog()
    assert listener.next() == "STATUS=two lines"
    assert listener.next() == "WATCHDOG=1"
    with systemd.reloading():
        first, second = listener.next().split("\n")
        assert first == "RELOADING=1"
        assert second.startswith("MONOTONIC_USEC=")
        assert int(second.partition("=")[2]) > 0
    assert listener.next() == "READY=1"
    systemd.forget("map.cells")
    assert listener.next() == "FDSTOREREMOVE=1\nFDNAME=map.cells"
    systemd.stopping()
    assert listener.next() == "STOPPING=1"


def test_a_descriptor_is_stored(listener: Listener, tmp_path: Path) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify")}, 1)
    fd = os.memfd_create("x")
    os.write(fd, b"content")
    systemd.store("state", fd)
    os.close(fd)
    text, (stored,) = listener.next_with_fds()
    assert text == "FDSTORE=1\nFDNAME=state\nFDPOLL=0"
    assert os.pread(stored, 99, 0) == b"content"
    os.close(stored)


def test_messages_reach_a_socket_with_an_abstract_address() -> None:
    name = f"kvm-exit-exporter-test-{os.getpid()}"
    listener = Listener("\0" + name)
    Systemd({"NOTIFY_SOCKET": f"@{name}"}, 1).ready()
    assert listener.next() == "READY=1"
    listener.close()


def test_a_missing_socket_only_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")}, 1).ready()
    assert caplog.messages == ["cannot notify systemd"]


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "78"},
        {"WATCHDOG_USEC": "-1"},
        {"WATCHDOG_USEC": ""},
        {"LISTEN_FDS": "3", "LISTEN_PID": "78"},
        {"LISTEN_FDS": "many", "LISTEN_PID": "77"},
        {"LISTEN_FDS": "-3", "LISTEN_PID": "77"},
        {"WATCHDOG_USEC": "9" * 400},
        {"WATCHDOG_USEC": "²"},
        {"LISTEN_FDS": "9" * 5000, "LISTEN_PID": "77"},
    ],
)
def test_variables_that_are_wrong_or_for_another_process_are_ignored(environ: dict[str, str]) -> None:
    systemd = Systemd(environ, 77)
    assert systemd.watchdog_seconds is None
    assert systemd.passed == []
    assert environ == {}


def test_passed_descriptors_have_names_and_are_not_inherited_by_children() -> None:
    """Three descriptors are passed, two of them with a name.

    The test uses a new process, because descriptor 3 is free there.
    """
    code = (
        "import os; from exporter.service.systemd import Systemd\n"
        "for number in (3, 4, 5): os.dup2(0, number)\n"
        "os.environ.update(LISTEN_FDS='3', LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES='web:map.cells')\n"
        "print(Systemd(os.environ, os.getpid()).passed, 'LISTEN_FDS' in os.environ)\n"
        "print([os.get_inheritable(number) for number in (3, 4, 5)])\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    assert said.stdout == "[('web', 3), ('map.cells', 4), ('', 5)] False\n[False, False, False]\n"


def _run_with_passed_descriptors(code: str) -> list[str]:
    """Run code with three passed descriptors.

    3 listens on TCP, 4 is not open, and 5 is a memfd with the name unheard-of.
    """
    start = (
        "import fcntl, os, socket\n"
        "listening = socket.create_server(('127.0.0.1', 0))\n"
        "address = '127.0.0.1:%d' % listening.getsockname()[1]\n"
        "given = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in (listening.detach(), os.memfd_create('x'))]\n"
        "os.closerange(3, 50)\n"
        "for fd, number in zip(given, (3, 5)): os.dup2(fd, number)\n"
        "os.environ.update(LISTEN_FDS='3', LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES='web:gone:unheard-of')\n"
        "from exporter.service.systemd import Systemd\n"
        "systemd = Systemd(os.environ, os.getpid())\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", start + code],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
    )
    return said.stdout.splitlines()


def test_unknown_passed_descriptors_are_closed_and_removed_from_the_store() -> None:
    """Descriptor 4 is announced but not open.

    Descriptor 5 has a name that only another version of the exporter knows.
    """
    code = (
        "from exporter.service.attach import sort_passed\n"
        "forgotten = []\n"
        "systemd.forget = forgotten.append\n"
        "print([name for name, _ in systemd.passed])\n"
        "print(sort_passed(systemd)[1], forgotten)\n"
    )
    assert _run_with_passed_descriptors(code) == ["['web', 'unheard-of']", "[3] ['unheard-of']"]


def test_a_passed_socket_is_used_without_a_notification_socket() -> None:
    """systemd-socket-activate passes sockets without NOTIFY_SOCKET.

    A unit of Type=simple gets its sockets in the same way.
    """
    code = (
        "from exporter.config.options import Config\n"
        "from exporter.service.daemon import Daemon\n"
        "daemon = Daemon(Config(lock_file=''), systemd=systemd)\n"
        "print(daemon.addresses == [address])\n"
    )
    assert _run_with_passed_descriptors(code) == ["True"]


def test_the_exporter_also_listens_in_its_runtime_directory(tmp_path: Path) -> None:
    """Nobody else can make a socket there. So `top` knows by the path that the exporter answers."""
    ours = f"unix:{tmp_path}/web.sock"
    systemd = Systemd({"RUNTIME_DIRECTORY": f"{tmp_path}:/other"}, os.getpid())
    for listens, expected in ((("127.0.0.1:0",), 2), ((ours,), 1)):
        daemon = Daemon(Config(web=Web(listen_address=listens)), systemd=systemd)
        assert daemon.addresses[-1] == ours
        assert len(daemon.addresses) == expected
        assert (tmp_path / "web.sock").stat().st_mode & 0o777 == 0o660
        daemon.close()
        assert list(tmp_path.iterdir()) == []
