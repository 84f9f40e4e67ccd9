"""The time split: where the scheduler keeps its figures of a thread, and the check of these places.

The scheduler counts in struct task_struct how often a thread got a CPU, how long it waited for one, and how long it
ran (struct sched_info and struct sched_entity, include/linux/sched.h). bpf/time_split.bpf.h reads these figures at the
end of an exit. BTF has their offsets. The loader reads its own figures there, and compares them with its own files in
/proc. So an offset that is wrong is found before any exit is split.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from exporter.kernel.btf import BtfError, KernelBtf
from exporter.kernel.syscall import TestRun

CHECK_PROGRAM = "task_figure"
"""The program that reads a figure of the calling thread (bpf/time_split_check.bpf.c)."""

_TASK = "task_struct"
_MACROS: Mapping[str, tuple[str, ...]] = {
    "SCHED_INFO_OFFSET": ("sched_info.pcount", "sched_info.run_delay"),
    "ARRIVAL_OFFSET": ("sched_info.last_arrival",),
    "EXEC_OFFSET": ("se.exec_start", "se.sum_exec_runtime"),
    "PREV_SUM_OFFSET": ("se.prev_sum_exec_runtime",),
    "NVCSW_OFFSET": ("nvcsw",),
}
"""The members that the program reads. Two members of one macro must lie side by side."""

MACROS = frozenset(_MACROS)

_WORD = 8
_SLEEP_SECONDS = 0.002


class SplitError(Exception):
    """The exits of this host cannot be split. The message is one line that says why."""


def offsets(btf: KernelBtf) -> dict[str, int]:
    """Return the macros of bpf/time_split.bpf.h, with offsets in bytes. Raises SplitError."""
    found = {}
    try:
        types = btf.of("vmlinux")
        for macro, paths in _MACROS.items():
            members = [types.member(_TASK, path) for path in paths]
            found[macro] = members[0].offset
            if any(member != (found[macro] + number * _WORD, _WORD) for number, member in enumerate(members)):
                raise SplitError(f"struct {_TASK} has {' and '.join(paths)} with another size or in another order")
    except BtfError as error:
        raise SplitError(str(error)) from error
    return found


class _Figures(NamedTuple):
    """Figures of the calling thread. Times in ns."""

    pcount: int
    run_delay: int
    exec_start: int
    sum_exec: int
    last_arrival: int
    prev_sum: int
    nvcsw: int

    @property
    def known_to_proc(self) -> tuple[int, ...]:
        return self.pcount, self.run_delay, self.sum_exec, self.nvcsw

    @property
    def off_cpu(self) -> tuple[int, int]:
        """The two measures of the time off the CPU, each from a beginning of its own."""
        return self.exec_start - self.sum_exec, self.last_arrival - self.prev_sum


_NAMES = ("sched_info.pcount", "sched_info.run_delay", "se.sum_exec_runtime", "nvcsw")
"""The names of _Figures.known_to_proc."""


def check(program: int, macros: Mapping[str, int], proc: Path = Path("/proc")) -> None:
    """Check the offsets at the calling thread. It is pinned to a CPU meanwhile, and sleeps twice.

    `program` is the descriptor of CHECK_PROGRAM. Raises SplitError.
    """
    thread = proc / "thread-self"
    try:
        with _pinned():
            time.sleep(_SLEEP_SECONDS)  # pinning brought prev_sum_exec_runtime up to date, but not last_arrival
            started = time.monotonic_ns()
            first = _compared(program, macros, thread)
            time.sleep(_SLEEP_SECONDS)
            second = _read(program, macros)
            elapsed = time.monotonic_ns() - started
    except OSError as error:
        raise SplitError(f"the scheduler's figures cannot be checked: {error.strerror}") from error
    if not first.sum_exec <= second.prev_sum <= second.sum_exec:  # it was set to sum_exec_runtime after the sleep
        raise SplitError(f"se.prev_sum_exec_runtime is read as {second.prev_sum}, not at least {first.sum_exec}")
    for then, now in zip(first.off_cpu, second.off_cpu):
        # The clocks of the scheduler differ a little from this one.
        if not _SLEEP_SECONDS * 1e9 / 2 <= now - then <= elapsed * 2:
            raise SplitError(f"the scheduler's figures show {now - then} ns off the CPU within {elapsed} ns")


@contextmanager
def _pinned() -> Iterator[None]:
    """Keep the calling thread on one CPU: one of the measures has the clock of a single CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _compared(program: int, macros: Mapping[str, int], thread: Path) -> _Figures:
    """Read the figures, and compare them with those that /proc shows before and after. Raises SplitError, OSError."""
    before = _of_proc(thread)
    found = _read(program, macros)
    after = _of_proc(thread)
    if not found.pcount:
        raise SplitError("the scheduler does not count how often a thread gets a CPU")
    for name, least, figure, most in zip(_NAMES, before, found.known_to_proc, after):
        if not least <= figure <= most:
            raise SplitError(f"{name} is read as {figure}, and /proc shows {least}")
    return found


def _read(program: int, macros: Mapping[str, int]) -> _Figures:
    """Read the figures of the calling thread with the program. Raises OSError."""
    run = TestRun(program)
    pcount, run_delay = (_word(run, macros["SCHED_INFO_OFFSET"] + at) for at in (0, _WORD))
    exec_start, sum_exec = (_word(run, macros["EXEC_OFFSET"] + at) for at in (0, _WORD))
    arrival, prev_sum, nvcsw = (
        _word(run, macros[macro]) for macro in ("ARRIVAL_OFFSET", "PREV_SUM_OFFSET", "NVCSW_OFFSET")
    )
    return _Figures(pcount, run_delay, exec_start, sum_exec, arrival, prev_sum, nvcsw)


def _word(run: TestRun, offset: int) -> int:
    """Return a word of the calling thread's task_struct: a run of the program returns half of it."""
    halves = [run(struct.pack("=Q", offset + half)) for half in (0, _WORD // 2)]
    return int.from_bytes(struct.pack("=II", *halves), "little")


def _of_proc(thread: Path) -> tuple[int, ...]:
    """Return _Figures.known_to_proc as /proc shows them. Raises OSError.

    Documentation/scheduler/sched-stats.rst: a schedstat has the time on a CPU, the time waiting, and the count of runs.
    """
    sum_exec, run_delay, pcount = map(int, (thread / "schedstat").read_text().split())
    status = dict(line.split(":", 1) for line in (thread / "status").read_text().splitlines())
    return pcount, run_delay, sum_exec, int(status["voluntary_ctxt_switches"])
