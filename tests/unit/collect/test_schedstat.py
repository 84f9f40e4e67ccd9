"""The time that a thread waited for a CPU is read in its schedstat."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.collect.schedstat import Schedstat
from exporter.model.records import ThreadKey


def put(proc: Path, key: ThreadKey, text: str) -> Path:
    file = proc / str(key.pid) / "task" / str(key.tid) / "schedstat"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.fixture
def schedstat(tmp_path: Path) -> Iterator[Schedstat]:
    made = Schedstat(tmp_path)
    yield made
    made.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_second_number_is_the_waiting(tmp_path: Path, schedstat: Schedstat) -> None:
    key = ThreadKey(100, 101, 1)
    put(tmp_path, key, "1009 211 7\n")
    assert schedstat.wait_ns(key) == 211
    put(tmp_path, key, "1013 307 11\n")
    assert schedstat.wait_ns(key) == 307


def test_an_open_file_stays_that_of_its_thread(tmp_path: Path, schedstat: Schedstat) -> None:
    """Another thread with the same tid has a file of its own."""
    old, new = ThreadKey(100, 101, 1), ThreadKey(100, 101, 2)
    file = put(tmp_path, old, "1009 211 7\n")
    assert schedstat.wait_ns(old) == 211
    file.unlink()
    put(tmp_path, new, "5 3 1\n")
    assert schedstat.wait_ns(old) == 211
    assert schedstat.wait_ns(new) == 3
    schedstat.forget(old)
    assert schedstat.wait_ns(old) == 3


@pytest.mark.parametrize("text", ["", "1009", "1009 x 7", "\xff"])
def test_a_file_of_another_form_says_nothing(tmp_path: Path, schedstat: Schedstat, text: str) -> None:
    put(tmp_path, ThreadKey(100, 101, 1), text)
    assert schedstat.wait_ns(ThreadKey(100, 101, 1)) is None


def test_a_thread_without_a_file_says_nothing(schedstat: Schedstat) -> None:
    before = open_files()
    assert schedstat.wait_ns(ThreadKey(100, 101, 1)) is None
    assert open_files() == before


def test_files_stay_open_up_to_a_quarter_of_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (12, 64))
    limited, before = Schedstat(tmp_path), open_files()
    keys = [ThreadKey(100, tid, 1) for tid in range(101, 106)]
    for number, key in enumerate(keys):
        put(tmp_path, key, f"1 {number} 1\n")
    for _ in range(2):
        assert [limited.wait_ns(key) for key in keys] == [0, 1, 2, 3, 4]
        assert open_files() - before == 3
    limited.close()
    assert open_files() == before
