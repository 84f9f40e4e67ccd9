"""The recording program on this host: loaded and attached, its ring buffer, and the formats of the tracepoints."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from exporter import __version__
from exporter.config.options import Config
from exporter.kernel import host, launcher, program
from exporter.kernel.clock import bpf_clock
from exporter.recording.ring import Ring, RingError
from exporter.recording.writer import RecordingHeader

MAX_LIVE_THREADS = 4096
"""Largest number of threads that are recorded at the same time. The events of further threads are counted as lost.

limits.vcpus, which is the limit of a replay, has the same default.
"""


class RecordError(Exception):
    """Recording cannot start. The message is one line for the operator."""


class RecordingProgram(NamedTuple):
    """record.bpf.c, attached."""

    loaded: program.Loaded
    ring: Ring
    clock_ns: Callable[[], int]
    """The clock of the events' times."""

    def header(self) -> RecordingHeader:
        """The header of a recording that starts now."""
        return RecordingHeader(
            kernel=os.uname().release,
            machine=platform.machine(),
            exporter=__version__,
            started=time.time(),
            clock_ns=self.clock_ns(),
            kvm_exit=self.loaded.formats["kvm_exit"],
            kvm_userspace_exit=self.loaded.formats["kvm_userspace_exit"],
        )


@contextlib.contextmanager
def attached(config: Config, proc: Path, sysfs: Path, *, pid: int, ring_bytes: int) -> Iterator[RecordingProgram]:
    """Attach the recording program until the context ends. Raises RecordError.

    `pid`: send only events of this process; 0: of all processes. `ring_bytes`: size of the ring buffer, a power of two.
    """
    with contextlib.ExitStack() as opened:
        try:
            clock_ns = bpf_clock(proc)
            host.required_texts(sysfs)  # the loader would wait for KVM
            loaded = launcher.load(
                program.LoadRequest(
                    front="",
                    defines={"RING_BYTES": ring_bytes, **({"ONLY_TGID": pid} if pid else {})},
                    sysfs=str(sysfs),
                    kind="recording",
                    slots=MAX_LIVE_THREADS,
                    cells=0,
                    kernel_headers=config.kernel_headers,
                )
            )
            opened.callback(loaded.close)
            ring = opened.enter_context(contextlib.closing(Ring(loaded.maps["events"], ring_bytes)))
        except program.LoadError as error:
            raise RecordError(error.explained()) from error
        except RingError as error:
            raise RecordError(str(error)) from error
        yield RecordingProgram(loaded, ring, clock_ns)
