"""Each test enters the sandbox in a process of its own, and tries what the daemon must not be able to do."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exporter.kernel import landlock, seccomp
from exporter.kernel.seccomp import REFUSED
from exporter.service import sandbox
from tests.support.paths import ROOT

_START = """
import ctypes, errno, json, os, platform, socket, subprocess, sys, threading
from pathlib import Path
from exporter.kernel import landlock, seccomp
from exporter.service import sandbox
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
assert libc.prctl(38, *[ctypes.c_ulong(one) for one in (1, 0, 0, 0)]) == 0  # PR_SET_NO_NEW_PRIVS
def call(number, *arguments):
    failed = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(one) for one in arguments)) < 0
    return errno.errorcode[ctypes.get_errno()] if failed else "done"
def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
"""


def _inside(code: str, *arguments: str, cwd: Path = ROOT) -> Any:
    """Run code in a new process, and return the JSON value that it prints."""
    command = [sys.executable, "-c", _START + code, *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=60)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def test_each_refused_call_fails_with_eperm() -> None:
    """Every argument is -1: without the filter, no such call succeeds or fails with EPERM on a host where root asks."""
    column = seccomp._GENERIC.__contains__(os.uname().machine)
    found = _inside(
        f"numbers = { ({name: numbers[column] for name, numbers in REFUSED.items()})!r}\n"
        "before = call(numbers['ptrace'], 16, -1, 0, 0)\n"
        "seccomp.install()\n"
        "print(json.dumps([before, {name: call(number, *[-1] * 6) for name, number in numbers.items()}]))\n"
    )
    assert found == ["ESRCH", dict.fromkeys(REFUSED, "EPERM")]


def test_no_program_can_be_started() -> None:
    found = _inside(
        "print(json.dumps([attempt(subprocess.run, ['/bin/true']), seccomp.install(),"
        " attempt(subprocess.run, ['/bin/true'])]))\n"
    )
    assert found == ["done", None, "EPERM"]


def test_only_descriptors_of_loaded_programs_and_maps_can_be_used() -> None:
    """For each of the first 40 commands of bpf(2), with a size of 0."""
    found = _inside(
        "number = seccomp._BPF[platform.machine() in seccomp._GENERIC]\n"
        "seccomp.install()\n"
        "print(json.dumps([call(number, command, -1, 1 << 20) for command in range(40)]))\n"
    )
    assert [number for number, result in enumerate(found) if result != "EPERM"] == list(seccomp.BPF_ALLOWED)


def test_nothing_is_written_to_the_input_of_a_terminal() -> None:
    leader, follower = pty.openpty()
    code = (
        "number = seccomp._IOCTL[platform.machine() in seccomp._GENERIC]\n"
        "seccomp.install()\n"
        "results = [attempt(lambda: fcntl.ioctl(0, 0x5412, b'x')), attempt(lambda: fcntl.ioctl(0, 0x541c, b'x')),"
        " call(number, 0, 0x5412 | 1 << 32, 0), os.isatty(0)]\n"
        "print(json.dumps(results))\n"
    )
    command = [sys.executable, "-c", _START + "import fcntl\n" + code]
    said = subprocess.run(command, stdin=follower, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    os.close(leader)
    os.close(follower)
    assert (said.returncode, said.stderr) == (0, "")
    assert json.loads(said.stdout) == ["EPERM", "EPERM", "EPERM", True]


def test_threads_that_are_started_later_are_in_the_sandbox() -> None:
    found = _inside(
        "seccomp.install()\n"
        "found = []\n"
        "thread = threading.Thread(target=lambda: found.append(attempt(os.execv, '/bin/true', ['x'])))\n"
        "thread.start(); thread.join()\n"
        "print(json.dumps(found))\n"
    )
    assert found == ["EPERM"]


def test_a_machine_without_numbers_gets_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    with pytest.raises(OSError, match="Function not implemented"):
        seccomp.install()


def _has_landlock() -> bool:
    try:
        landlock._call(landlock._CREATE, None, 0, 1)
    except OSError:
        return False
    return True


needs_landlock = pytest.mark.skipif(not _has_landlock(), reason="this kernel has no Landlock")


@needs_landlock
def test_files_are_read_where_they_are_named_and_written_nowhere(tmp_path: Path) -> None:
    named, other, target = tmp_path / "named", tmp_path / "other", tmp_path / "target"
    for folder in (named, other, target):
        folder.mkdir()
        (folder / "file").write_text("text")
    (named / "link").symlink_to(target / "file")
    found = _inside(
        "named, other, target = (Path(name) for name in sys.argv[1:4])\n"
        "sandbox.enter([named / 'file', named / 'link'], [])\n"
        "def read(path): path.read_text()\n"
        "(later := named / 'file').read_text()\n"
        "print(json.dumps({\n"
        "    'named': attempt(read, named / 'file'), 'link': attempt(read, named / 'link'),\n"
        "    'other': attempt(read, other / 'file'), 'cmdline': attempt(read, Path('/proc/self/cmdline')),\n"
        "    'write': attempt((named / 'file').write_text, ''), 'make': attempt((named / 'new').write_text, ''),\n"
        "    'remove': attempt((named / 'file').unlink), 'rename': attempt(os.rename, named / 'file', named / 'new'),\n"
        "    'folder': attempt((named / 'new').mkdir), 'fifo': attempt(os.mkfifo, named / 'new'),\n"
        "    'null': attempt(read, Path('/dev/null')), 'disk': attempt(os.open, '/dev/null', os.O_RDWR),\n"
        "}))\n",
        *map(str, (named, other, target)),
    )
    allowed = dict.fromkeys(("named", "link", "cmdline", "null"), "done")
    assert found == {
        **dict.fromkeys(("other", "write", "make", "remove", "rename", "folder", "fifo", "disk"), "EACCES"),
        **allowed,
    }


@needs_landlock
def test_a_unix_socket_can_be_removed_and_nothing_be_put_in_its_place(tmp_path: Path) -> None:
    found = _inside(
        "from exporter.web.listen import listen\n"
        "listener = listen(f'unix:{sys.argv[1]}/socket')\n"
        "sandbox.enter([], [listener.path])\n"
        "made = attempt((listener.path.parent / 'new').write_text, '')\n"
        "listener.close()\n"
        "print(json.dumps([made, listener.path.exists()]))\n",
        str(tmp_path),
    )
    assert found == ["EACCES", False]


@needs_landlock
def test_no_connection_is_made() -> None:
    found = _inside(
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "version = landlock.restrict([Path('/')])\n"
        "connected = attempt(socket.create_connection, server.getsockname())\n"
        "print(json.dumps([version >= 4, connected, attempt(socket.create_server, ('127.0.0.1', 0))]))\n"
    )
    if not found[0]:
        pytest.skip("Landlock knows TCP from version 4 on")
    assert found[1] == "EACCES"


def test_a_kernel_without_a_sandbox_is_no_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    caplog.set_level("INFO")
    monkeypatch.setattr(landlock, "restrict", refuse)
    monkeypatch.setattr(seccomp, "install", refuse)
    sandbox.enter([], [])
    off = "off: Function not implemented"
    assert [record.__dict__["fields"] for record in caplog.records] == [{"landlock": off, "seccomp": off}]


def test_inherited_descriptors_are_closed_unless_they_were_passed() -> None:
    found = _inside(
        "kept, closed, own = (os.open('/dev/null', os.O_RDONLY) for _ in range(3))\n"
        "for fd in (kept, closed): os.set_inheritable(fd, True)\n"
        "sandbox.close_inherited([kept])\n"
        "print(json.dumps([attempt(os.fstat, fd) for fd in (0, 1, 2, kept, closed, own)]))\n"
    )
    assert found == ["done"] * 4 + ["EBADF", "done"]


def test_a_terminal_is_left_and_a_pipe_is_not() -> None:
    leader, follower = pty.openpty()
    command = [
        sys.executable,
        "-c",
        "import os\nfrom exporter.service.sandbox import leave_terminal\nleave_terminal()\n"
        "os.write(2, repr([os.readlink(f'/proc/self/fd/{fd}') for fd in (0, 1)]).encode())",
    ]
    said = subprocess.run(command, stdin=follower, stdout=follower, stderr=subprocess.PIPE, check=True, cwd=ROOT)
    assert said.stderr == b"['/dev/null', '/dev/null']"
    said = subprocess.run(command, stdin=follower, capture_output=True, check=True, cwd=ROOT)
    assert said.stderr.startswith(b"['/dev/null', 'pipe:[")
    os.close(leader)
    os.close(follower)
