"""The processes with drops are read, and those that have ended are forgotten."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from exporter.collect.droppers import Droppers
from exporter.kernel import syscall

LINGER = 1_000


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, int]]:
    """The map of the program: drops by pid."""
    drops: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(syscall, "map_keys", lambda _: list(drops))
    monkeypatch.setattr(syscall, "map_lookup", lambda _, pid, size: struct.pack("=QQ", *drops[pid])[:size])
    monkeypatch.setattr(syscall, "map_delete", lambda _, pid: drops.pop(pid))
    return drops


def _process(proc: Path, pid: int, start: int) -> None:
    (proc / str(pid)).mkdir(exist_ok=True)
    (proc / str(pid) / "stat").write_text(f"{pid} (qemu) S " + "0 " * 18 + f"{start} 0\n")


def test_a_process_is_forgotten_when_linger_is_over(table: dict[int, tuple[int, int]], tmp_path: Path) -> None:
    under_test = Droppers(3, tmp_path)
    table.update({10: (7, 0), 20: (0, 11), 30: (13, 0)})
    assert under_test.read({10}, 100, LINGER) == {10: (7, 0), 20: (0, 11), 30: (13, 0)}
    table[30] = (13, 17)
    assert under_test.read({10}, 1_099, LINGER) == {10: (7, 0), 20: (0, 11), 30: (13, 17)}
    assert under_test.read({10}, 1_100, LINGER) == {10: (7, 0), 30: (13, 17)}
    assert under_test.read({10}, 2_099, LINGER) == {10: (7, 0)}
    assert table == {10: (7, 0)}
    table[20] = (1, 0)
    assert under_test.read(set(), 3_000, LINGER) == {20: (1, 0)}


def test_another_process_with_the_same_pid_inherits_no_drops(table: dict[int, tuple[int, int]], tmp_path: Path) -> None:
    _process(tmp_path, 10, start=5)
    under_test = Droppers(3, tmp_path)
    table[10] = (7, 0)
    assert under_test.read({10}, 100, LINGER) == {10: (7, 0)}
    (tmp_path / "10/stat").unlink()
    assert under_test.read(set(), 200, LINGER) == {10: (7, 0)}  # it has ended
    _process(tmp_path, 10, start=6)
    assert under_test.read({10}, 300, LINGER) == {}
    table[10] = (3, 0)
    assert under_test.read({10}, 400, LINGER) == {10: (3, 0)}


def test_no_process_of_a_foreign_namespace_is_read(table: dict[int, tuple[int, int]], tmp_path: Path) -> None:
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[4026532299]")
    under_test = Droppers(3, tmp_path)
    table[10] = (7, 0)
    for start in (5, 6):
        _process(tmp_path, 10, start)
        assert under_test.read({10}, 100, LINGER) == {10: (7, 0)}
