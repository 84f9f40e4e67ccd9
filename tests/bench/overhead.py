"""Measure what an exit costs its host: with this exporter, with the least possible, and with other designs.

Two measures of the same programs on the same real tracepoint:

- whole: the CPU time of the thread that fires the tracepoint. It includes the tracepoint, the call of the program and
  the program. The kernel's statistics are off.
- bpf_stats: the run time that the kernel measures (BPF_ENABLE_STATS). It includes the cost of that measurement, and
  does not include the tracepoint.

Only one program is attached at a time. All rows of a round run one after the other, so noise of the host hits all rows.
Figures are medians of all rounds.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from exporter.kernel import launcher, program, syscall
from exporter.kernel.clock import bpf_clock
from exporter.model.reason import Space
from exporter.recording.recorder import Recorder
from exporter.recording.ring import Ring
from exporter.recording.writer import Writer
from tests.bench import designs
from tests.bench.guest import REASONS, Guest, Program, missing
from tests.recordings import from_ftrace
from tests.support.kernel_memory import MEMORY, MEMORY_PROGRAMS, Memory
from tests.support.one_cpu import one_cpu

ROUNDS, EXITS = 61, 20_000
BUSY_BYTES, BUSY_ROUNDS, BUSY_EXITS = 64 << 10, 101, 2000
"""In the second table, the guest touches these bytes before each event. So nothing stays in the L1 cache."""

RING_BYTES = 1 << 24
NONE, EMPTY, FLOOR = "no program", "raw: an empty program", "floor: raw, reads the clock and stores it"

_RAW = {EMPTY: "empty", FLOOR: "floor", "this exporter": "ours"}
_X86 = {"this exporter on VMX": Space.VMX, "this exporter on SVM": Space.SVM}
_OTHERS = {
    "seed: one hash, count/sum/min/max": "seed",
    "bcc kvmexit: per-CPU hash, counts only": "percpu",
    "three hashes, update and delete": "hash",
}
_CLASSIC = {
    "classic: an empty program": "empty",
    "classic: reads the clock and stores it": "floor",
    "classic: this exporter": "ours",
}
_VCPU_SIZE = 1024


class Figures(NamedTuple):
    """ns of one exit and one entry, a number for each round. `bpf_stats` is empty if no program is attached."""

    whole: list[float]
    bpf_stats: list[float]


def _load(front: str = "arm64", cells: int = 1024, **options: Any) -> program.Loaded:
    return launcher.load(program.LoadRequest(front=front, slots=64, cells=cells, attach=False, **options))


def _load_all() -> tuple[dict[str, Program], list[program.Loaded]]:
    """Return the programs by row, and the descriptors to close."""
    source = designs.TRACEPOINT + designs.OURS + designs.OTHERS
    options: dict[str, Any] = {"extra_source": source, "extra_programs": designs.PAIRS}
    raw = _load(defines=designs.DEFINES, **options)
    classic = _load(defines=designs.CLASSIC_DEFINES, extra_classic=True, **options)
    programs = {row: Program(raw.programs[name]) for row, name in _RAW.items()}
    x86 = _load_x86()
    memory = Memory(x86)
    for row, isa in _X86.items():
        programs[row] = Program(x86.programs["x86"], reasons=_vcpus(memory), isa=isa)
    programs.update((row, Program(raw.programs[name])) for row, name in _OTHERS.items())
    programs.update((row, Program(classic.programs[name], classic=True)) for row, name in _CLASSIC.items())
    return programs, [raw, x86, classic]


def _load_x86() -> program.Loaded:
    source = designs.TRACEPOINT + designs.X86 + MEMORY
    return _load("x86", defines=designs.X86_DEFINES, extra_source=source, extra_programs=("x86", *MEMORY_PROGRAMS))


def _vcpus(memory: Memory) -> tuple[int, ...]:
    """Return addresses of vCPUs in the kernel's memory. Each one has another reason, for VMX and for SVM."""
    for number, reason in enumerate(REASONS):
        vcpu = number * _VCPU_SIZE
        vmcb = vcpu + _VCPU_SIZE // 2
        memory.put(vcpu + designs.VMX_REASON, reason)
        memory.put(vcpu + designs.VMCB, memory.address + vmcb)
        memory.put(vmcb + designs.EXIT_CODE, reason)
    return tuple(memory.address + number * _VCPU_SIZE for number in range(len(REASONS)))


def _record(loaded: program.Loaded, stopped: Callable[[], bool]) -> None:
    """Do the work of `record` with /dev/null as file. End the bench if events are lost, because they cost less time."""
    with Path(os.devnull).open("wb", buffering=0) as out:
        writer = Writer(out, from_ftrace.header(from_ftrace.DEMO))
        proc = Path("/proc")
        recorder = Recorder(loaded, Ring(loaded.maps["events"], RING_BYTES), writer, proc, clock_ns=bpf_clock(proc))
        recorder.finish(recorder.run(None, stopped))
    if any(writer.totals.lost.values()):
        sys.exit(f"bench: events were lost: {dict(writer.totals.lost)}")


@contextmanager
def _recording() -> Iterator[Program]:
    """Load the recording program. Another process reads its events."""
    loaded = _load(
        kind="recording",
        defines={**designs.DEFINES, "RING_BYTES": RING_BYTES},
        cells=0,
        extra_source=designs.TRACEPOINT + designs.OURS,
        extra_programs=("ours",),
    )
    forked = multiprocessing.get_context("fork")  # the child inherits the descriptors
    stop = forked.Event()
    reader = forked.Process(target=_record, args=(loaded, stop.is_set))
    reader.start()
    try:
        yield Program(loaded.programs["ours"])
    finally:
        stop.set()
        reader.join()
        loaded.close()
    if reader.exitcode:
        sys.exit(reader.exitcode)


def measure(programs: dict[str, Program], rounds: int, exits: int, touched: int = 0) -> dict[str, Figures]:
    """Return the figures of all rows, and of no program. Raises RuntimeError if statistics are already on."""
    guest = Guest(touched)
    figures = {row: Figures([], []) for row in (NONE, *programs)}
    with one_cpu():
        for _ in range(rounds):
            figures[NONE].whole.append(guest.whole_ns(next(iter(programs.values())), exits))
            for row, attached in programs.items():
                runs = syscall.program_stats(attached.fd).runs
                with attached.attached():
                    figures[row].whole.append(guest.whole_ns(attached, exits))
                    if syscall.program_stats(attached.fd).runs != runs:
                        raise RuntimeError("BPF statistics are on: end the exporter that has bpf_stats")
                    stats = syscall.enable_stats()
                    figures[row].bpf_stats.append(guest.bpf_stats_ns(attached, exits))
                    os.close(stats)
    return figures


def _over(times: list[float], base: list[float]) -> float:
    """Return the median of the differences of the rounds: noise that lasts for a whole round cancels out."""
    return statistics.median(a - b for a, b in zip(times, base))


def table(figures: dict[str, Figures]) -> list[str]:
    """Return the lines of the table."""
    floor = figures[FLOOR]
    floor_over = _over(floor.whole, figures[NONE].whole)
    lines = [
        "| programs | whole: ns | over no program | of the floor | bpf_stats: ns | over empty | of the floor |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row, (whole, stats) in figures.items():
        over = _over(whole, figures[NONE].whole) if row != NONE else 0.0
        line = f"| {row} | {statistics.median(whole):.0f} | {over:.0f} | {over / floor_over:.2f} x |"
        if stats:
            median = statistics.median(stats)
            ratio = median / statistics.median(floor.bpf_stats)
            line += f" {median:.0f} | {round(_over(stats, figures[EMPTY].bpf_stats))} | {ratio:.2f} x |"
        else:
            line += " - | - | - |"
        lines.append(line)
    return lines


def _print(rounds: int, exits: int, guest: str, figures: dict[str, Figures]) -> None:
    print(f"ns of one exit and its entry, {guest}: medians of {rounds} rounds of {exits:,}.\n")
    print("\n".join(table(figures)))


def main() -> None:
    """Measure and print the tables. Raises RuntimeError if the figures would be wrong."""
    if missing():
        print(f"Not measured: {missing()}.")
        return
    programs, opened = _load_all()
    with _recording() as recording:
        recorded = {"`record`: every event through a ring buffer": recording}
        tight = measure({**programs, **recorded}, ROUNDS, EXITS)
    busy = measure(programs, BUSY_ROUNDS, BUSY_EXITS, BUSY_BYTES)
    for loaded in opened:
        loaded.close()
    _print(ROUNDS, EXITS, "in a tight loop", tight)
    print()
    _print(BUSY_ROUNDS, BUSY_EXITS, f"with {BUSY_BYTES >> 10} KiB touched before each event", busy)


if __name__ == "__main__":
    main()
