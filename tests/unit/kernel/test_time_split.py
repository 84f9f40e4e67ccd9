"""Where the scheduler keeps its figures: what BTF must say, and each way in which the check refuses the places."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from exporter.kernel import time_split
from exporter.kernel.btf import KernelBtf
from exporter.kernel.time_split import SplitError
from tests.support.btf import SCHEDULER_OFFSETS, BtfFile, scheduler_btf

MS = 10**6


def sys_with(root: Path, content: bytes) -> KernelBtf:
    file = root / "kernel/btf/vmlinux"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return KernelBtf(root)


def test_btf_has_the_offsets_of_all_macros(tmp_path: Path) -> None:
    found = time_split.offsets(sys_with(tmp_path, scheduler_btf().content()))
    assert found == SCHEDULER_OFFSETS
    assert found.keys() == time_split.MACROS


def test_without_btf_there_are_no_offsets(tmp_path: Path) -> None:
    with pytest.raises(SplitError) as caught:
        time_split.offsets(KernelBtf(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_member_that_is_missing_is_told(tmp_path: Path) -> None:
    file = BtfFile()
    file.struct("task_struct", 8, {"nvcsw": (file.integer("unsigned long", 8), 0)})
    with pytest.raises(SplitError) as caught:
        time_split.offsets(sys_with(tmp_path, file.content()))
    assert str(caught.value) == "struct task_struct has no member sched_info.pcount"


@pytest.mark.parametrize(
    ("changed", "members"),
    [
        ({"run_delay": 192}, "sched_info.pcount and sched_info.run_delay"),
        ({"sum_exec_runtime": 256}, "se.exec_start and se.sum_exec_runtime"),
        ({"narrow": "pcount"}, "sched_info.pcount and sched_info.run_delay"),
        ({"narrow": "run_delay"}, "sched_info.pcount and sched_info.run_delay"),
        ({"narrow": "last_arrival"}, "sched_info.last_arrival"),
        ({"narrow": "sum_exec_runtime"}, "se.exec_start and se.sum_exec_runtime"),
        ({"narrow": "prev_sum_exec_runtime"}, "se.prev_sum_exec_runtime"),
        ({"narrow": "nvcsw"}, "nvcsw"),
    ],
)
def test_a_member_of_another_size_or_place_is_refused(
    tmp_path: Path, changed: dict[str, int | str], members: str
) -> None:
    with pytest.raises(SplitError) as caught:
        time_split.offsets(sys_with(tmp_path, scheduler_btf(**changed).content()))  # type: ignore[arg-type]
    assert str(caught.value) == f"struct task_struct has {members} with another size or in another order"


class Task:
    """The figures of a thread as the program reads them, and as /proc shows them. All look alike at first."""

    def __init__(self, proc: Path) -> None:
        self.folder = proc / "thread-self"
        self.folder.mkdir()
        self.reads = 0
        self.words = {
            "pcount": 101, "run_delay": 2003, "exec_start": 900 * MS, "sum_exec": 307, "arrival": 800 * MS,
            "prev_sum": 307, "nvcsw": 11,
        }  # fmt: skip
        self.second: dict[str, int] = {"exec_start": 903 * MS, "arrival": 803 * MS}
        """The words that the second reading finds changed."""
        self.shown = "307 2003 101\n"
        self.status = "Name:\tx\nvoluntary_ctxt_switches:\t11\n"

    def run(self, context: bytes) -> int:
        offset = int.from_bytes(context, sys.byteorder)
        names = {
            **{
                SCHEDULER_OFFSETS["SCHED_INFO_OFFSET"]: "pcount",
                SCHEDULER_OFFSETS["SCHED_INFO_OFFSET"] + 8: "run_delay",
            },
            **{SCHEDULER_OFFSETS["EXEC_OFFSET"]: "exec_start", SCHEDULER_OFFSETS["EXEC_OFFSET"] + 8: "sum_exec"},
            SCHEDULER_OFFSETS["ARRIVAL_OFFSET"]: "arrival",
            SCHEDULER_OFFSETS["PREV_SUM_OFFSET"]: "prev_sum",
            SCHEDULER_OFFSETS["NVCSW_OFFSET"]: "nvcsw",
        }
        words = {**self.words, **(self.second if self.reads >= 2 * len(self.words) else {})}
        self.reads += 1
        half = offset % 8
        return words[names[offset - half]] >> (8 * half) & 0xFFFFFFFF

    def check(self, proc: Path) -> None:
        (self.folder / "schedstat").write_text(self.shown)
        (self.folder / "status").write_text(self.status)
        time_split.check(-1, SCHEDULER_OFFSETS, proc)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    made = Task(tmp_path)
    clock = iter([1_000 * MS, 1_003 * MS])
    monkeypatch.setattr(time_split, "TestRun", lambda _: made.run)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(clock))
    return made


def test_figures_that_agree_are_accepted_and_the_thread_may_move_again(task: Task, tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    task.check(tmp_path)
    assert task.reads == 4 * len(task.words)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("words", "second", "problem"),
    [
        ({"pcount": 0}, {}, "the scheduler does not count how often a thread gets a CPU"),
        ({"pcount": 102}, {}, "sched_info.pcount is read as 102, and /proc shows 101"),
        ({"pcount": 2**32 + 101}, {}, f"sched_info.pcount is read as {2**32 + 101}, and /proc shows 101"),
        ({"run_delay": 2002}, {}, "sched_info.run_delay is read as 2002, and /proc shows 2003"),
        ({"sum_exec": 306}, {}, "se.sum_exec_runtime is read as 306, and /proc shows 307"),
        ({"nvcsw": 12}, {}, "nvcsw is read as 12, and /proc shows 11"),
        ({}, {"prev_sum": 306}, "se.prev_sum_exec_runtime is read as 306, not at least 307"),
        ({}, {"prev_sum": 308}, "se.prev_sum_exec_runtime is read as 308, not at least 307"),
        ({}, {"exec_start": 900 * MS}, "the scheduler's figures show 0 ns off the CPU within 3000000 ns"),
        ({}, {"exec_start": 906 * MS + 1}, "the scheduler's figures show 6000001 ns off the CPU within 3000000 ns"),
        ({}, {"arrival": 801 * MS - 1}, "the scheduler's figures show 999999 ns off the CPU within 3000000 ns"),
        ({}, {"arrival": 799 * MS}, "the scheduler's figures show -1000000 ns off the CPU within 3000000 ns"),
    ],
)
def test_a_figure_that_is_wrong_is_refused(
    task: Task, tmp_path: Path, words: dict[str, int], second: dict[str, int], problem: str
) -> None:
    task.words.update(words)
    task.second.update(second)
    before = os.sched_getaffinity(0)
    with pytest.raises(SplitError) as caught:
        task.check(tmp_path)
    assert str(caught.value) == problem
    assert os.sched_getaffinity(0) == before


def test_the_limits_of_the_time_off_the_cpu_are_accepted(task: Task, tmp_path: Path) -> None:
    task.second.update(exec_start=901 * MS, arrival=806 * MS)
    task.check(tmp_path)


def test_without_the_files_of_proc_nothing_is_split(task: Task, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(SplitError) as caught:
        time_split.check(-1, SCHEDULER_OFFSETS, tmp_path / "elsewhere")
    assert str(caught.value) == "the scheduler's figures cannot be checked: No such file or directory"


def test_the_calling_thread_is_read_and_not_its_process(task: Task, tmp_path: Path) -> None:
    task.check(tmp_path)
    assert time_split._of_proc(task.folder) == (101, 2003, 307, 11)
    assert Path(os.readlink("/proc/thread-self")).parts[-1] == str(threading.get_native_id())
