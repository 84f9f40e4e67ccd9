"""Measure the kernel time of an exit on real tracepoints: with this exporter, the least possible, and other designs.

The kernel measures the run times (kernel.bpf_stats_enabled). So every figure includes the cost of the measurement.
The empty programs
show that cost. Only one pair of programs is attached at a time. Figures are medians of all rounds.
"""

from __future__ import annotations

import ctypes
import fcntl
import multiprocessing
import os
import platform
import statistics
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.kernel import launcher, program, syscall
from exporter.recording.recorder import Recorder
from exporter.recording.ring import Ring
from exporter.recording.writer import Writer
from tests.bench import designs
from tests.recordings import from_ftrace

ROUNDS, CALLS = 31, 20_000
RING_BYTES = 1 << 24
REASONS = (0x24, 0x01, 0x18, 0x16, 0x20)

_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PERF_TYPE_TRACEPOINT = 2
_PERF_EVENT_IOC_SET_BPF, _PERF_EVENT_IOC_ENABLE = 0x40042408, 0x2400
_PERF_FLAG_FD_CLOEXEC = 8


def _attach(tracepoint: str, bpf: int) -> int:
    """Attach a program to a classic tracepoint with perf_event_open(2). Closing the returned descriptor detaches it.

    Raises OSError.
    """
    identifier = int((Path("/sys/kernel/tracing/events") / tracepoint / "id").read_text())
    # struct perf_event_attr: type, size, config, sample_period, sample_type, read_format, flags; PERF_ATTR_SIZE_VER0
    attributes = struct.pack("=IIQQQQQ16x", _PERF_TYPE_TRACEPOINT, 64, identifier, 1, 0, 0, 0)
    number = _SYS_PERF_EVENT_OPEN[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(ctypes.c_long(number), attributes, -1, 0, -1, ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    fcntl.ioctl(fd, _PERF_EVENT_IOC_SET_BPF, bpf)
    fcntl.ioctl(fd, _PERF_EVENT_IOC_ENABLE, 0)
    return int(fd)


def _round(loaded: program.Loaded, prefix: str) -> float:
    """Return the nanoseconds of one exit and one entry."""
    pair = [loaded.programs[f"{prefix}_{end}"] for end in ("exit", "entry")]
    attached = [_attach(f"syscalls/sys_{end}_umask", bpf) for end, bpf in zip(("enter", "exit"), pair)]
    before = [syscall.program_stats(bpf) for bpf in pair]
    umask = os.umask
    for number in range(CALLS):
        umask(REASONS[number % 5])
    after = [syscall.program_stats(bpf) for bpf in pair]
    for fd in attached:
        os.close(fd)
    return sum((a.seconds - b.seconds) / (a.runs - b.runs) for b, a in zip(before, after)) * 1e9


def _load(**options: Any) -> program.Loaded:
    return launcher.load(
        program.LoadRequest(
            front="arm64",
            defines=options.pop("defines", {}),
            attach=False,
            bpf_stats=True,
            extra_classic=True,
            **options,
        )
    )


def _record(loaded: program.Loaded, stopped: Callable[[], bool]) -> None:
    """Do the work of `record` with /dev/null as file. End the bench if events are lost, because they cost less time."""
    with Path(os.devnull).open("wb", buffering=0) as out:
        writer = Writer(out, from_ftrace.header(from_ftrace.DEMO))
        recorder = Recorder(loaded, Ring(loaded.maps["events"], RING_BYTES), writer, Path("/proc"))
        recorder.finish(recorder.run(None, stopped))
    if any(writer.totals.lost.values()):
        sys.exit(f"bench: events were lost: {dict(writer.totals.lost)}")


def _recording() -> list[float]:
    """Return the figures of all rounds of the recording program. Another process reads the events."""
    defines = {"RING_BYTES": RING_BYTES}
    loaded = _load(
        kind="recording",
        defines=defines,
        slots=64,
        cells=0,
        extra_source=designs.OURS,
        extra_programs=designs.OURS_PROGRAMS,
    )
    forked = multiprocessing.get_context("fork")  # the child inherits the descriptors
    stop = forked.Event()
    reader = forked.Process(target=_record, args=(loaded, stop.is_set))
    reader.start()
    rounds = [_round(loaded, "ours") for _ in range(ROUNDS)]
    stop.set()
    reader.join()
    loaded.close()
    if reader.exitcode:
        sys.exit(reader.exitcode)
    return rounds


def main() -> None:
    """Measure and print the table."""
    loaded = _load(slots=64, cells=1024, extra_source=designs.OURS + designs.OTHERS, extra_programs=designs.PROGRAMS)
    rounds: dict[str, list[float]] = {name: [] for name in designs.PAIRS}
    for _ in range(ROUNDS):
        for name, prefix in designs.PAIRS.items():
            rounds[name].append(_round(loaded, prefix))
    loaded.close()
    rounds["`record`: every event through a ring buffer"] = _recording()
    ns = {name: statistics.median(times) for name, times in rounds.items()}
    empty, floor = list(ns.values())[:2]
    print(f"Medians of {ROUNDS} rounds of {CALLS:,} exits and entries with {len(REASONS)} reasons.\n")
    print("| programs | ns per exit + entry | over empty | of the floor |")
    print("|---|---:|---:|---:|")
    for name, median in ns.items():
        print(f"| {name} | {median:.0f} | {median - empty:.0f} | {median / floor:.2f} x |")


if __name__ == "__main__":
    main()
