"""The command lines of `record` and `replay`."""

from __future__ import annotations

import argparse
import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.terminal import options as terminal

_RECORD_EPILOG = """\
examples:
  record web-1.kvmrec 10                   ten seconds of every VM on this host
  record slow.kvmrec --vm web-1            one VM's events until Ctrl-C
  record first.kvmrec -p 4242 --events 100000
  record - 60 | ssh desk 'cat > host.kvmrec'
  replay web-1.kvmrec                      the table of what was recorded
  demo --recording web-1.kvmrec            the same on /metrics, again and again

The file holds every exit, entry and return to the VMM of the vCPU threads, with its time, the names and uuids of the
VMs, the kernel's release and its tracepoint formats: no command lines, no guest's data. An event takes some 3 bytes.
It is readable by its owner alone, and never written over another without --force.

Recording costs every exit more than counting does, and events are lost when they come faster than they are written:
how many of which kind is written too, and said at the end. So is that there was no event, or none of the VM asked
for; the status is 0 all the same. It is 1 when nothing could be recorded, or not all could be written; 2 for usage.
"""

STDOUT = Path("-")


@dataclass(frozen=True)
class RecordOptions:
    """What to record, and where to."""

    file: Path
    """STDOUT for standard output."""
    seconds: float | None = None
    """None: until a signal."""
    events: int = 0
    """So many at most; 0: no such limit."""
    pid: int = 0
    """Of this process alone; 0: of all."""
    vm: str = ""
    """Of the VM of this name alone."""
    ring_bytes: int = 1 << 24
    force: bool = False


_REPLAY_EPILOG = """\
examples:
  replay web-1.kvmrec
  replay web-1.kvmrec --no-idle --sort p99 --limit 10
  replay web-1.kvmrec --vm web-1 --vcpu 0 --userspace
  replay web-1.kvmrec --json | jq '.vcpus[] | {vm, vcpu, guest_ns}'

The events go through the same BPF program that counts on a host, with their own times, as fast as it takes them: the
table is what `top` would have printed there. Nothing is attached, no KVM is needed; Linux 5.10 and root are.

Events that were lost while recording are said on stderr. The status is 1 for a file that is not a whole recording, 130
after Ctrl-C.
"""

_SIZE = re.compile(r"([0-9]{1,10})([KMG]?)(?:i?B)?")
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LEAST_RING, _MOST_RING = 1 << 16, 1 << 30


def add_record(commands: Any) -> argparse.ArgumentParser:
    """Add `record` to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "record",
        help="write this host's KVM events to a file",
        description="Record every KVM event of vCPU threads, for `replay`, `demo --recording` and bug reports.",
        epilog=_RECORD_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recording", type=Path, metavar="FILE", help="to write; - is standard output")
    parser.add_argument(
        "duration", nargs="?", type=terminal.seconds(0.001), help="so many seconds; without: until Ctrl-C"
    )
    parser.add_argument("--events", type=_whole(1, 10**12), default=0, metavar="N", help="stop after exactly N events")
    parser.add_argument(
        "-p", "--pid", action=_Once, type=_whole(1, 1 << 22), default=0, metavar="PID", help="of this process alone"
    )
    parser.add_argument("--vm", action=_Once, type=_vm, metavar="NAME", help="of the VM with exactly this name")
    parser.add_argument(
        "--ring-size",
        type=_ring_size,
        default=1 << 24,
        metavar="SIZE",
        help="kernel memory for events on their way (16M; an event takes 48 bytes there)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE if it exists")
    return parser


def add_replay(commands: Any) -> argparse.ArgumentParser:
    """Add `replay` to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "replay",
        help="show what a recording holds",
        description="Run a recording's events through the counting program, and print what it counted.",
        epilog=_REPLAY_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recording", type=Path, metavar="FILE", help="what `record` wrote")
    terminal.add_output(parser)
    return parser


def record_options(parsed: argparse.Namespace) -> RecordOptions:
    """The parsed command line."""
    return RecordOptions(
        file=parsed.recording,
        seconds=parsed.duration,
        events=parsed.events,
        pid=parsed.pid,
        vm=parsed.vm or "",
        ring_bytes=parsed.ring_size,
        force=parsed.force and parsed.recording != STDOUT,
    )


class _Once(argparse.Action):
    """Not the last of several in silence."""

    def __call__(self, _: object, namespace: argparse.Namespace, value: object, *__: object) -> None:
        if getattr(namespace, self.dest) != self.default:
            raise argparse.ArgumentError(self, "can be given only once")
        setattr(namespace, self.dest, value)


def _vm(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("'': allowed is a VM's name")
    return terminal.name(text)


def _whole(low: int, high: int) -> Any:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 16 and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!a}: allowed is a whole number from {low} to {high}")
        return int(text)

    return parse


def _ring_size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    size = int(match[1]) * _FACTORS[match[2]] if match else 0
    # The kernel takes powers of two, in whole pages (kernel/bpf/ringbuf.c, ringbuf_map_alloc()).
    if not max(_LEAST_RING, mmap.PAGESIZE) <= size <= _MOST_RING or size & (size - 1):
        raise argparse.ArgumentTypeError(f"{text!a}: allowed is a power of two from 64K to 1G")
    return size
