"""How long threads waited for a CPU, from files of /proc: made by hand, and those of real threads."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest

from exporter.collect.schedstat import Schedstat
from exporter.model.records import ThreadKey

PID = 1009


def put(proc: Path, tid: int, text: str) -> ThreadKey:
    file = proc / str(PID) / "task" / str(tid) / "schedstat"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return ThreadKey(PID, tid, 1)


def descriptors(proc: Path) -> int:
    """Return how many files of `proc` this process has open."""
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    return sum(str(proc) in os.readlink(link) for link in links if link.is_symlink())


def test_the_second_number_is_read_and_the_file_stays_open(tmp_path: Path) -> None:
    schedstat = Schedstat(tmp_path)
    one, two = put(tmp_path, 1013, "101 2003 307\n"), put(tmp_path, 1019, f"1 {2**64 - 1} 3\n")
    assert [schedstat.wait_ns(each) for each in (one, two, one)] == [2003, 2**64 - 1, 2003]
    assert descriptors(tmp_path) == 2
    put(tmp_path, 1013, "101 4001 307\n")
    assert schedstat.wait_ns(one) == 4001
    schedstat.forget(one)
    schedstat.forget(one)
    assert descriptors(tmp_path) == 1
    schedstat.close()
    assert descriptors(tmp_path) == 0


def test_the_open_file_is_that_of_its_thread(tmp_path: Path) -> None:
    """Another thread has the tid now. The key of the first one still means the first one."""
    schedstat = Schedstat(tmp_path)
    key = put(tmp_path, 1013, "1 17 1\n")
    assert schedstat.wait_ns(key) == 17
    (tmp_path / str(PID) / "task/1013/schedstat").unlink()
    later = put(tmp_path, 1013, "1 23 1\n")._replace(born_ns=2)
    assert [schedstat.wait_ns(each) for each in (key, later)] == [17, 23]
    schedstat.close()


@pytest.mark.parametrize("text", ["", "17", "17 x 19\n"])
def test_a_file_that_cannot_be_understood_says_nothing(tmp_path: Path, text: str) -> None:
    schedstat = Schedstat(tmp_path)
    assert schedstat.wait_ns(put(tmp_path, 1013, text)) is None
    schedstat.close()


def test_a_file_that_cannot_be_opened_says_nothing(tmp_path: Path) -> None:
    schedstat = Schedstat(tmp_path)
    assert schedstat.wait_ns(ThreadKey(PID, 1013, 1)) is None
    schedstat.close()


def test_a_real_thread_that_has_ended_says_nothing() -> None:
    schedstat, stop = Schedstat(Path("/proc")), threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert thread.native_id
    key = ThreadKey(os.getpid(), thread.native_id, 1)
    assert schedstat.wait_ns(key) is not None
    stop.set()
    thread.join()
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        pass
    assert schedstat.wait_ns(key) is None
    schedstat.close()


def test_a_quarter_of_the_descriptors_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (13, 4096))
    schedstat = Schedstat(tmp_path)
    keys = [put(tmp_path, 1013 + number, f"1 {101 + number} 1\n") for number in range(7)]
    for _ in range(2):
        assert [schedstat.wait_ns(key) for key in keys] == [101 + number for number in range(7)]
        assert descriptors(tmp_path) == 3
    schedstat.close()
    assert descriptors(tmp_path) == 0
