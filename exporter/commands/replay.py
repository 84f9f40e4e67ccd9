"""The command `replay`: a recording through the counting program, and the table of what it counted."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path

from exporter.common.text import printable
from exporter.config.options import Config
from exporter.kernel import host, launcher, program
from exporter.naming.reasons import ReasonNames
from exporter.readings import reading as document
from exporter.recording import recording
from exporter.recording.events import COUNTED
from exporter.recording.recording import Recording, RecordingError
from exporter.recording.rerun import rerun
from exporter.terminal import report
from exporter.terminal.options import Output


def run(config: Config, file: Path, output: Output) -> int:
    """Print the table; returns the exit status: 1 for a file that is no whole recording."""
    try:
        recorded = recording.read(file)
        first, last = _readings(config, recorded)
    except RecordingError as error:
        _say(str(error))
        return 1
    except program.LoadError as error:
        _say(error.explained())
        return 1
    if not _print(report.text(output, str(file), first, last, first=True, heading=False)):
        return 1
    for note in (*_losses(recorded), *report.notes(output, first, last, "the recording has none")):
        _say(note)
    return 0


def _print(text: str) -> bool:
    """Write it to standard output; False if that fails, but for a reader that has what it wanted (`| head`)."""
    out = sys.stdout
    if out is None:
        _say("standard output is closed")
        return False
    if isinstance(out, TextIOWrapper):
        out.reconfigure(errors="backslashreplace")
    try:
        out.write(text)
        out.flush()
    except BrokenPipeError:
        report.drop(out)
    except OSError as error:
        report.drop(out)
        _say(f"cannot print: {error.strerror}")
        return False
    return True


def _readings(config: Config, recorded: Recording) -> tuple[document.Reading, document.Reading]:
    loaded = launcher.load(host.request(config, recorded.kvm_exit, attach=False))
    try:
        snapshot, vcpus = rerun(recorded, loaded)
    finally:
        loaded.close()
    names = ReasonNames(recorded.kvm_exit, recorded.kvm_userspace_exit)
    first = document.nothing(recorded.first_ns, replay=True)
    last = document.reading(snapshot, vcpus.get, names.lookup, since_ns=recorded.first_ns, replay=True)
    return first, last


def _losses(recorded: Recording) -> list[str]:
    lost = {kind.name.lower(): recorded.lost[kind] for kind in COUNTED if recorded.lost[kind]}
    if not lost:
        return []
    kinds = ", ".join(f"{name} {count}" for name, count in lost.items())
    return [f"{sum(lost.values())} events were lost while it was recorded ({kinds}): the counts are too low by them"]


def _say(line: str) -> None:
    print("kvm-exit-exporter replay:", printable(line), file=sys.stderr, flush=True)
