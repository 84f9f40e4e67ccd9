"""The pulse detects a hanging web server from outside the server's loop. It raises no false alarm."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path

import pytest

from exporter.config import options as config
from exporter.service.daemon import Daemon
from exporter.service.systemd import Systemd
from exporter.web import heartbeat
from exporter.web.heartbeat import Heartbeat
from exporter.web.response import Request, Response, Route, text_response
from exporter.web.server import WebServer
from tests.web.client import ask, connect
from tests.web.conftest import Serve
from tests.web.inside import Clock, until


def turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_a_loop_that_does_not_run_for_ten_seconds_counts_as_hanging(caplog: pytest.LogCaptureFixture) -> None:
    loop, clock = asyncio.new_event_loop(), Clock()
    beating = Heartbeat(loop, clock)
    for _ in range(3):  # checked rarely: between two checks, the loop runs once
        clock.now += 500
        turn(loop)
        clock.now += 500
        assert beating.beats()
    clock.now += 1000  # the loop did not run, but perhaps the whole process was stopped
    assert beating.beats()
    turn(loop)
    assert beating.beats()
    assert beating.beats()
    clock.now += 9.9
    assert beating.beats()
    for seconds in (0.2, 100):
        clock.now += seconds
        assert not beating.beats()
    turn(loop)
    assert beating.beats()
    assert [record.getMessage() for record in caplog.records] == ["the web server hangs"]
    turn(loop)
    loop.close()
    assert beating.beats()
    assert beating.beats()
    clock.now += 10
    assert not beating.beats(), "a closed loop must count as hanging"


def test_a_server_with_a_blocked_loop_does_not_respond(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def hang(_: Request) -> Response:
        assert go_on.wait(60)
        return text_response(200)

    web = serve(routes={"/hangs": Route(hang), "/": Route(lambda _: text_response(200))})
    assert web.responds()
    assert ask(web, "/").status == 200
    monkeypatch.setattr(heartbeat, "_HANG_SECONDS", 0.1)
    with connect(web) as raw:
        raw.sendall(b"GET /hangs HTTP/1.0\r\n\r\n")
        until(lambda: not web.responds())
        go_on.set()
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
    until(web.responds)


def test_a_hanging_server_sends_no_watchdog_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(path)
        notified.setblocking(False)
        systemd = Systemd({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "60000000"}, os.getpid())
        configured = config.Config(web=config.Web(listen_address=("127.0.0.1:0",)), lock_file="")
        daemon = Daemon(configured, systemd=systemd)
        for responds in (True, False, True):
            monkeypatch.setattr(WebServer, "responds", lambda _, responds=responds: responds)
            daemon._notify_alive()
        assert [notified.recv(4096) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        with pytest.raises(BlockingIOError):
            notified.recv(4096)
        daemon.close()
