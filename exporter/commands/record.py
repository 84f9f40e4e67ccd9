"""The command `record`: attach the recording program, write what it sends, and say at the end what that was."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from exporter import __version__
from exporter.common.signals import Stop
from exporter.common.text import printable
from exporter.config.options import Config
from exporter.kernel import host, launcher, program
from exporter.recording import writer
from exporter.recording.events import COUNTED
from exporter.recording.options import STDOUT, RecordOptions
from exporter.recording.recorder import Recorder
from exporter.recording.ring import Ring, RingError
from exporter.recording.writer import Writer

_FAILURE, _INTERRUPTED = 1, 130
_NAMED = 20
"""So many VMs are said by name."""

MAX_LIVE_THREADS = 4096
"""Followed at a time; events of more are counted as lost. A replay has as much room."""


class RecordError(Exception):
    """Nothing can be recorded; one line for the operator."""


def run(config: Config, options: RecordOptions, *, proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> int:
    """Record; returns the exit status: 1 when nothing could be recorded, or not all could be written.

    130 when a second Ctrl-C came before the recording was whole.
    """
    try:
        if options.file != STDOUT:
            writer.check_target(options.file, force=options.force)
        elif sys.stdout is None:
            raise RecordError("standard output is closed")
        elif sys.stdout.isatty():
            raise RecordError("standard output is a terminal: name a file, or send it on with > or |")
        # The file comes last: an old one is not overwritten for nothing.
        with Stop() as stop, _loaded(config, options, sysfs) as (loaded, ring, texts), _output(options) as file:
            out = Writer(file, _header(texts))
            recorder = Recorder(loaded, ring, out, proc, vm_name=options.vm, events=options.events)
            with contextlib.closing(recorder):
                failure, seconds = _record(recorder, options.seconds, lambda: stop.asked)
    except (RecordError, RingError, writer.ExistsError, program.LoadError) as error:
        _say(f"cannot record: {error}")
        return _FAILURE
    except OSError as error:
        _say(f"cannot write {options.file}: {error.strerror}: there is no whole recording")
        return _FAILURE
    except KeyboardInterrupt:
        _say("interrupted twice: there is no whole recording")
        return _INTERRUPTED
    if failure:
        _say(f"cannot write {options.file}: {failure}; what was written before that is a whole recording")
    _say(summary(out, recorder.vms, seconds, options.file))
    if not any(out.counts[kind] or out.lost[kind] for kind in COUNTED):
        _say(nothing(options, recorder.others))
    return _FAILURE if failure else 0


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _loaded(
    config: Config, options: RecordOptions, sysfs: Path
) -> Iterator[tuple[program.Loaded, Ring, Mapping[str, str]]]:
    texts = host.read_texts(sysfs)
    if texts is None:
        raise host.no_kvm()
    front = program.front_of(host.parsed(texts).kvm_exit)
    defines = {**front.defines, "RING_BYTES": options.ring_bytes}
    if options.pid:
        defines["ONLY_TGID"] = options.pid
    asked = program.LoadRequest(
        front=front.front,
        defines=defines,
        kind="recording",
        slots=MAX_LIVE_THREADS,
        cells=0,
        kernel_headers=config.kernel_headers,
    )
    try:
        loaded = launcher.load(asked)
    except program.LoadError as error:
        raise RecordError(error.explained()) from error
    try:
        with contextlib.closing(Ring(loaded.maps["events"], options.ring_bytes)) as ring:
            yield loaded, ring, texts
    finally:
        loaded.close()


@contextlib.contextmanager
def _output(options: RecordOptions) -> Iterator[BinaryIO]:
    if options.file == STDOUT:
        yield sys.stdout.buffer.raw if hasattr(sys.stdout.buffer, "raw") else sys.stdout.buffer
        return
    with writer.create(options.file, force=options.force) as file:
        try:
            yield file
        except BaseException:
            writer.discard(file, options.file)
            raise


def _header(texts: Mapping[str, str]) -> writer.RecordingHeader:
    formats = texts["kvm_exit"], texts["kvm_userspace_exit"]
    return writer.RecordingHeader(
        os.uname().release, platform.machine(), __version__, time.time(), time.monotonic_ns(), *formats
    )


def _record(recorder: Recorder, seconds: float | None, stopped: Callable[[], bool]) -> tuple[str, float]:
    """Returns why not all could be written, or "", and the seconds it took. Raises OSError when nothing is whole."""
    started_ns = time.monotonic_ns()
    deadline_ns = None if seconds is None else started_ns + round(seconds * 1e9)
    failure = ""
    try:
        ended = recorder.run(deadline_ns, stopped)
    except OSError as error:
        ended = failure = str(error.strerror)
    taken = (time.monotonic_ns() - started_ns) / 1e9
    recorder.finish(ended)
    return failure, taken


def nothing(options: RecordOptions, others: set[str]) -> str:
    """Say in one line why there may be no event; `others` are VMs that were seen and not asked for."""
    if others:
        return f"no event matches --vm; seen: {', '.join(map(printable, sorted(others)[:_NAMED]))}"
    if options.pid:
        return f"no event of process {options.pid} was seen: is it a VM's?"
    return "no event was seen: is a VM running on this host?"


def summary(out: Writer, vms: int, seconds: float, file: Path) -> str:
    """Say in one line what was recorded."""
    kinds = ", ".join(f"{kind.name.lower()} {out.counts[kind]}" for kind in COUNTED)
    total, lost = (sum(counts[kind] for kind in COUNTED) for counts in (out.counts, out.lost))
    missing = ", ".join(f"{kind.name.lower()} {out.lost[kind]}" for kind in COUNTED if out.lost[kind])
    said = f"{total} events ({kinds}), {lost} lost{f' ({missing}): try a larger --ring-size' if lost else ''}"
    where = "standard output" if file == STDOUT else str(file)
    return f"{where}: {said}, {vms} VM{'' if vms == 1 else 's'}, {seconds:.1f} s, {out.size} bytes"
