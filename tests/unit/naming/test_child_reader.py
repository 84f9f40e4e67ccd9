"""A child process reads a file. It is killed if the read hangs, and keeps nothing of its parent open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.naming.child_reader import read_head_in_child


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 65537, 1_000_003])
def test_the_head_of_a_file_is_read(tmp_path: Path, size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    before = _children()
    assert read_head_in_child(tmp_path / "file", 1 << 20) == content
    assert read_head_in_child(tmp_path / "file", 4099) == content[:4099]
    assert _children() == before


def test_a_file_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    before = _children()
    assert read_head_in_child(tmp_path / "missing", 100) == b""
    assert read_head_in_child(Path("/proc/self/mem"), 100) == b""
    assert _children() == before


def test_a_read_that_hangs_is_given_up(tmp_path: Path) -> None:
    before, open_before = _children(), os.listdir("/proc/self/fd")
    os.mkfifo(tmp_path / "fifo")
    assert read_head_in_child(tmp_path / "fifo", 100) is None
    assert _children() == before
    assert os.listdir("/proc/self/fd") == open_before


def test_the_child_has_only_its_pipe(tmp_path: Path) -> None:
    """Otherwise a child that hangs would keep ports and BPF programs of a daemon that has ended."""
    pipe = os.pipe()
    os.write(pipe[1], b"x")
    assert read_head_in_child(Path(f"/proc/self/fd/{pipe[0]}"), 1) == b""
    for fd in pipe:
        os.close(fd)


def test_no_child_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for name in ("fork", "pipe"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, _refuse)
            assert read_head_in_child(tmp_path, 100) is None
    assert os.listdir("/proc/self/fd") == before


def _refuse() -> int:
    raise OSError


def _children() -> list[str]:
    """Pids of the children of this process, also of those that nobody has waited for."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += (task / "children").read_text().split()
    return found
