"""A thread that makes exits and entries: it fires a real tracepoint in a loop, and takes the CPU time of that loop."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from exporter.kernel import syscall
from exporter.kernel.tracepoint import event_id
from tests.bench.designs import ENTRY_OPTION, EXIT_OPTION
from tests.support.raw_tracepoint import attach_raw

REASONS = (0x24, 0x01, 0x18, 0x16, 0x20)
_WARM_UP = 500
_FORMAT = Path("/sys/kernel/tracing/events/task/task_prctl_unknown/format")


class Program(NamedTuple):
    """A loaded program of designs.py."""

    fd: int
    classic: bool = False
    """True if it is for a classic tracepoint, not for a raw one."""
    reasons: tuple[int, ...] = REASONS
    """What the guest passes for each exit in turn: the reason, or the address of a vCPU that has it."""
    isa: int = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach the program as the exporter attaches its own. Raises OSError."""
        if self.classic:
            attachment = syscall.attach_classic(self.fd, event_id(_FORMAT.read_text()))
        else:
            attachment = attach_raw(self.fd, "task_prctl_unknown")
        try:
            yield
        finally:
            os.close(attachment)


def missing() -> str:
    """Return what this host lacks for the measure; "" if nothing is missing."""
    if _FORMAT.exists():
        return ""
    return "the tracepoint task:task_prctl_unknown is missing; it needs Linux 6.14 and tracefs"


class Guest:
    """The compiled loop. It runs in the calling thread."""

    def __init__(self, touched: int) -> None:
        """Compile the loop. Before each event, it touches this number of bytes."""
        with tempfile.TemporaryDirectory() as folder:
            library, source = f"{folder}/loop.so", Path(__file__).with_name("loop.c")
            command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
            subprocess.run([*command, "-o", library, source], check=True)
            self._loop = ctypes.CDLL(library).loop
        self._loop.restype = ctypes.c_uint64
        size, number, word = ctypes.c_size_t, ctypes.c_uint64, ctypes.c_ulong
        self._loop.argtypes = (
            *(number, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, number, word),
            *(ctypes.c_void_p, size),
        )
        self._touched = (ctypes.create_string_buffer(touched), touched)

    def _run(self, exits: int, program: Program) -> float:
        """Send exits, each followed by its entry. Returns the CPU time of one exit and one entry in ns."""
        reasons = (ctypes.c_ulong * len(program.reasons))(*program.reasons)
        passed = (EXIT_OPTION, ENTRY_OPTION, reasons, len(reasons), program.isa)
        return int(self._loop(exits, *passed, *self._touched)) / exits

    def whole_ns(self, program: Program, exits: int) -> float:
        """Return the CPU time of one exit and one entry in ns: everything that happens in the thread."""
        self._run(_WARM_UP, program)
        return self._run(exits, program)

    def bpf_stats_ns(self, program: Program, exits: int) -> float:
        """Return the run time of the program for one exit and one entry in ns, as the kernel measures it.

        Raises RuntimeError if the program ran for other events too, or missed an event.
        """
        self._run(_WARM_UP, program)
        before = syscall.program_stats(program.fd)
        self._run(exits, program)
        after = syscall.program_stats(program.fd)
        if after.runs - before.runs != 2 * exits:
            raise RuntimeError(f"{after.runs - before.runs} runs of the program, but {2 * exits} events were sent")
        return (after.seconds - before.seconds) / exits * 1e9
