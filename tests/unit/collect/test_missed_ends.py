"""The threads that /proc no longer has. A thread that cannot be judged counts as alive."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from exporter.collect import missed_ends
from exporter.model.records import ThreadKey

NOW = 10_000 * 10**9
"""The time on the clock of the slots."""
HOUR_NS = 3600 * 10**9


class Proc:
    """A tree like /proc of a machine that was booted two hours ago."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.boot_ns = 2 * HOUR_NS
        (root / "self/ns").mkdir(parents=True)
        (root / "self/ns/pid").symlink_to("pid:[4026531836]")
        self._thread(root / "1", 0)
        # The machine has slept for an hour: only this clock went on.
        clocks = {time.CLOCK_BOOTTIME: self.boot_ns, time.CLOCK_MONOTONIC: self.boot_ns - HOUR_NS}
        monkeypatch.setattr(time, "clock_gettime_ns", clocks.__getitem__)

    def add(self, pid: int, tid: int, age_ns: int) -> None:
        self._thread(self.root / str(pid) / "task" / str(tid), self.boot_ns - age_ns)

    def _thread(self, folder: Path, started_ns: int) -> None:
        folder.mkdir(parents=True)
        ticks = started_ns * os.sysconf("SC_CLK_TCK") // 10**9
        (folder / "stat").write_text(f"{folder.name} (CPU 0/KVM) S " + "0 " * 18 + f"{ticks} 0 0\n")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    return Proc(tmp_path, monkeypatch)


def key(pid: int, tid: int, age_ns: int) -> ThreadKey:
    """Return the key of a slot that was taken `age_ns` ago."""
    return ThreadKey(pid, tid, NOW - age_ns)


def test_threads_that_are_gone_or_younger_than_their_slot_have_ended(proc: Proc) -> None:
    proc.add(7, 71, HOUR_NS)
    proc.add(7, 72, HOUR_NS // 2)
    proc.add(9, 91, HOUR_NS)
    runs = [key(7, 71, HOUR_NS - 1), key(9, 91, 1009)]
    just_taken = key(7, 71, HOUR_NS + 10**7)  # within a tick of the clock of /proc
    younger = key(7, 72, HOUR_NS)
    gone = [key(7, 73, 1009), key(8, 81, HOUR_NS)]
    assert missed_ends.ended([*runs, just_taken, younger, *gone], proc.root, NOW) == [younger, *gone]


def test_a_thread_may_be_a_second_younger_than_its_slot(proc: Proc) -> None:
    """The clock of /proc has ticks, and the two clocks are not read at the same moment."""
    proc.add(7, 71, HOUR_NS)
    at_most, more = key(7, 71, HOUR_NS + 10**9), key(7, 71, HOUR_NS + 10**9 + 1)
    assert missed_ends.ended([at_most, more], proc.root, NOW) == [more]


def test_a_thread_whose_files_cannot_be_read_counts_as_alive(proc: Proc) -> None:
    (proc.root / "7").write_text("not a folder")
    assert missed_ends.ended([key(7, 71, 1009)], proc.root, NOW) == []


def test_nothing_is_concluded_from_a_proc_that_hides_processes(proc: Proc) -> None:
    (proc.root / "1/stat").unlink()  # hidepid
    assert missed_ends.ended([key(7, 71, 1009)], proc.root, NOW) == []


def test_nothing_is_concluded_in_another_pid_namespace(proc: Proc) -> None:
    (proc.root / "self/ns/pid").unlink()
    assert missed_ends.ended([key(7, 71, 1009)], proc.root, NOW) == []
    (proc.root / "self/ns/pid").symlink_to("pid:[4026532299]")
    assert missed_ends.ended([key(7, 71, 1009)], proc.root, NOW) == []
