"""The command `record`: write this host's KVM events to a file, and print a summary at the end."""

from __future__ import annotations

import argparse
import contextlib
import mmap
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from exporter.commands import configuration, console
from exporter.commands.arguments import Once, add_command, seconds, vm_name, whole
from exporter.common.text import printable
from exporter.config.options import Config

if TYPE_CHECKING:
    from exporter.recording.recorder import Recorder

STDOUT = Path("-")
_MAX_NAMES = 20
"""Largest number of VMs that a line names."""

_EPILOG = """\
examples:
  record web-1.kvmrec 10                   ten seconds of every VM on this host
  record slow.kvmrec --vm web-1            one VM's events until Ctrl-C
  record first.kvmrec -p 4242 --events 100000
  record - 60 | ssh desk 'cat > host.kvmrec'
  replay web-1.kvmrec                      the table of what was recorded
  demo --recording web-1.kvmrec            the recording on /metrics, again and again

The file holds every exit, entry and return to the VMM of the vCPU threads with its time, the names and uuids of the
VMs, the kernel's release, and the formats of its tracepoints. It holds no command lines and no data of a guest. An
event takes some 3 bytes. Only the owner can read the file. An existing file is overwritten only with --force.

Recording costs more time per exit than counting. Events are lost if they come faster than they are written, or if the
kernel skips the BPF program. The number of lost events of each kind is in the file, and in the summary on stderr. If
there was no event, or none that matches the flags, a second line says so. The status is still 0. It is 1 if nothing
could be recorded or some events could not be written, and 2 for a usage error.
"""

_SIZE = re.compile(r"([0-9]{1,10})([KMG]?)(?:i?B)?")
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LEAST_RING, _MOST_RING = 1 << 16, 1 << 30


@dataclass(frozen=True)
class RecordOptions:
    """The parsed command line."""

    file: Path
    """STDOUT for standard output."""
    seconds: float | None = None
    """None: until a signal."""
    events: int = 0
    """Stop after this number of events; 0: no limit."""
    pid: int = 0
    """Only events of this process; 0: of all processes."""
    vm: str = ""
    """Only events of the VM with this name; "": of all VMs."""
    ring_bytes: int = 1 << 24
    force: bool = False
    """True: an existing file is overwritten."""


def add(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = add_command(
        commands,
        "record",
        lambda config, parsed: run(config, options(parsed)),
        help="write this host's KVM events to a file",
        description="Record every KVM event of vCPU threads, for `replay`, `demo --recording` and bug reports.",
        epilog=_EPILOG,
    )
    parser.add_argument("recording", type=Path, metavar="FILE", help="file to write; - is standard output")
    parser.add_argument(
        "duration", nargs="?", type=seconds(0.001), help="how many seconds to record (default: until Ctrl-C)"
    )
    parser.add_argument("--events", type=whole(1, 10**12), default=0, metavar="N", help="stop after exactly N events")
    parser.add_argument(
        "-p", "--pid", action=Once, type=whole(1, 1 << 22), default=0, metavar="PID", help="only events of this process"
    )
    parser.add_argument(
        "--vm", action=Once, type=_vm, metavar="NAME", help="only events of the VM with exactly this name"
    )
    parser.add_argument(
        "--ring-size",
        type=_ring_size,
        default=1 << 24,
        metavar="SIZE",
        help="kernel memory for unwritten events (16M; an event takes 48 bytes there)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE if it exists")
    configuration.add_file(parser)


def _vm(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("'': allowed is a VM's name")
    return vm_name(text)


def _ring_size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    size = int(match[1]) * _FACTORS[match[2]] if match else 0
    # The kernel takes powers of two, in whole pages (kernel/bpf/ringbuf.c, ringbuf_map_alloc()).
    if not max(_LEAST_RING, mmap.PAGESIZE) <= size <= _MOST_RING or size & (size - 1):
        raise argparse.ArgumentTypeError(f"{text!a}: allowed is a power of two from 64K to 1G")
    return size


def options(parsed: argparse.Namespace) -> RecordOptions:
    """The options in a parsed command line."""
    return RecordOptions(
        file=parsed.recording,
        seconds=parsed.duration,
        events=parsed.events,
        pid=parsed.pid,
        vm=parsed.vm or "",
        ring_bytes=parsed.ring_size,
        force=parsed.force and parsed.recording != STDOUT,
    )


def run(config: Config, options: RecordOptions, *, proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> int:
    """Record; returns the exit status.

    The status is 1 if nothing could be recorded or some events could not be written. It is 130 if a second Ctrl-C came
    before the recording was complete.
    """
    from exporter.common.signals import Stop  # noqa: PLC0415 - usage errors need none of it
    from exporter.recording import attach, writer  # noqa: PLC0415
    from exporter.recording.recorder import Recorder  # noqa: PLC0415
    from exporter.recording.ring import RingError  # noqa: PLC0415

    console.say_if_pids_are_foreign(proc)
    program = attach.attached(config, proc, sysfs, pid=options.pid, ring_bytes=options.ring_bytes)
    try:
        _check_target(options)
        # The file is opened last: an old file is overwritten only once the program is attached.
        with Stop() as stop, program as recording, _output(options) as file:
            out = writer.Writer(file, recording.header())
            recorder = Recorder(
                recording.loaded,
                recording.ring,
                out,
                proc,
                vm_name=options.vm,
                events=options.events,
                clock_ns=recording.clock_ns,
            )
            with contextlib.closing(recorder):
                failure, taken = _record(recorder, recording.clock_ns, options.seconds, lambda: stop.asked)
    except (_TargetError, attach.RecordError, RingError, writer.ExistsError) as error:
        console.say(f"cannot record: {error}")
        return console.FAILURE
    except OSError as error:
        console.say(f"cannot write {options.file}: {error.strerror}: no complete recording was written")
        return console.FAILURE
    except KeyboardInterrupt:
        console.say("interrupted twice: no complete recording was written")
        return console.INTERRUPTED
    if failure:
        console.say(f"cannot write {options.file}: {failure}; the events before that are a complete recording")
    events, lost = out.totals.by_name()
    skipped = sum(recorder.skipped.values())
    console.say(summary(options.file, events, lost, skipped=skipped, vms=recorder.vms, seconds=taken, size=out.size))
    if not any((*events.values(), *lost.values())):
        console.say(nothing(options, recorder.others))
    return console.FAILURE if failure else 0


class _TargetError(Exception):
    """Standard output cannot hold a recording. The message is one line for the operator."""


def _check_target(options: RecordOptions) -> None:
    """Check that the output can be written, before the program is loaded. Raises _TargetError and ExistsError."""
    from exporter.recording import writer  # noqa: PLC0415

    if options.file != STDOUT:
        writer.check_target(options.file, force=options.force)
    elif sys.stdout is None:
        raise _TargetError("standard output is closed")
    elif sys.stdout.isatty():
        raise _TargetError("standard output is a terminal: name a file, or redirect it with > or |")


@contextlib.contextmanager
def _output(options: RecordOptions) -> Iterator[BinaryIO]:
    """The file to write, without a buffer. It is removed if an exception ends the recording."""
    from exporter.recording import writer  # noqa: PLC0415

    if options.file == STDOUT:
        yield sys.stdout.buffer.raw if hasattr(sys.stdout.buffer, "raw") else sys.stdout.buffer
        return
    with writer.create(options.file, force=options.force) as file:
        try:
            yield file
        except BaseException:
            writer.discard(file, options.file)
            raise


def _record(
    recorder: Recorder, clock_ns: Callable[[], int], seconds: float | None, stopped: Callable[[], bool]
) -> tuple[str, float]:
    """Record, and complete the file. Raises RingError, and OSError if the file could not be completed.

    Returns the write error that ended the recording ("" without an error), and the duration in seconds.
    """
    started_ns = clock_ns()
    deadline_ns = None if seconds is None else started_ns + round(seconds * 1e9)
    failure = ""
    try:
        ended = recorder.run(deadline_ns, stopped)
    except OSError as error:
        ended = failure = str(error.strerror)
    taken = (clock_ns() - started_ns) / 1e9
    recorder.finish(ended)
    return failure, taken


def nothing(options: RecordOptions, others: set[str]) -> str:
    """One line that says why no event was recorded. `others` are the VMs that had events, but do not match --vm."""
    if others:
        return f"no event matches --vm; seen: {', '.join(map(printable, sorted(others)[:_MAX_NAMES]))}"
    if options.pid:
        return f"no event of process {options.pid} was seen: is the process a VM?"
    return "no event was seen: is a VM running on this host?"


def summary(
    file: Path, events: Mapping[str, int], lost: Mapping[str, int], *, skipped: int, vms: int, seconds: float, size: int
) -> str:
    """One line with the events and the lost events of each kind, and the number of VMs, seconds and bytes.

    `skipped` is the number of lost events for which the kernel skipped the program.
    """
    kinds = ", ".join(f"{kind} {count}" for kind, count in events.items())
    missing = ", ".join(f"{kind} {count}" for kind, count in lost.items() if count)
    total = sum(lost.values())
    whys = [f"the kernel skipped {skipped}"] if skipped else []
    if total > skipped:
        whys.append("try a larger --ring-size")
    why = f" ({missing}): {'; '.join(whys)}" if missing else ""
    counts = f"{sum(events.values())} events ({kinds}), {total} lost{why}"
    where = "standard output" if file == STDOUT else str(file)
    return f"{where}: {counts}, {vms} VM{'' if vms == 1 else 's'}, {seconds:.1f} s, {size} bytes"
