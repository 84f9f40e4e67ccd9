"""This host's KVM as the loader wants it, and what the host lacks where it cannot be loaded."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from exporter import preflight, program
from exporter.config import Config
from exporter.preflight import Check
from exporter.reasons import FormatError, TracepointFormat, parse_format

# A slot with its entry in the hash and on the stack, and a cell with its entry on the stack: about 500 and 1,220 bytes.
_SLOT_BYTES, _CELL_BYTES = 512, 1280


class Formats(NamedTuple):
    """Tracepoint formats of the events whose fields and names are read at run time."""

    kvm_exit: TracepointFormat
    kvm_userspace_exit: TracepointFormat


def read_formats(sysfs: Path) -> Formats | None:
    """Read what the running kernel says of its tracepoints; None while KVM is not there. Raises LoadError."""
    texts = read_format_texts(sysfs)
    try:
        return Formats(*map(parse_format, texts)) if texts else None
    except FormatError as error:
        raise program.LoadError(f"tracefs, events/kvm: {error}", "report it with that file") from error


def read_format_texts(sysfs: Path) -> tuple[str, str] | None:
    """Read the two files as they are; None while KVM is not there. Raises LoadError."""
    tracefs = preflight.find_tracefs(sysfs)
    if tracefs is None:
        raise program.LoadError("tracefs is not mounted", preflight.MOUNT_TRACEFS)
    events = tracefs / "events" / "kvm"
    try:
        return (events / "kvm_exit" / "format").read_text(), (events / "kvm_userspace_exit" / "format").read_text()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise program.LoadError(f"cannot read {error.filename}: {error.strerror}", preflight.READ_TRACEFS) from error
    except OSError as error:
        raise program.LoadError(f"cannot read {error.filename}: {error.strerror}") from error


def request(config: Config, kvm_exit: TracepointFormat, *, attach: bool) -> program.Request:
    """Build what the loader is asked for; not attached, the program takes its time from a recording."""
    return program.request_for(
        kvm_exit,
        slots=config.limits.vcpus,
        cells=config.limits.cells,
        attach=attach,
        clock_in_context=not attach,
        bpf_stats=config.bpf_stats,
        kernel_headers=config.kernel_headers,
    )


def map_bytes(config: Config) -> int:
    """Kernel memory that the maps pin, in bytes, rounded up."""
    return config.limits.vcpus * _SLOT_BYTES + config.limits.cells * _CELL_BYTES


def checks(config: Config, *, proc: Path, sysfs: Path) -> list[Check]:
    """The whole preflight, a trial load that attaches nothing included."""
    return _checks(config, proc, sysfs, lambda: _trial(config, sysfs))


def explained(error: program.LoadError, config: Config, *, proc: Path, sysfs: Path, attach: bool) -> str:
    """One line: what was refused, and the remedy; where the kernel gave an errno alone, what the host lacks."""
    if error.remedy:
        return str(error)
    lacks = [check for check in _checks(config, proc, sysfs, lambda: "") if not check.ok]
    if not attach:  # a replay needs no tracepoints
        lacks = [check for check in lacks if not check.name.startswith("trace") and "tracepoints" not in check.name]
    return "; ".join([error.what, *(f"{check.name}: {check.detail} ({check.remedy})" for check in lacks)])


def _checks(config: Config, proc: Path, sysfs: Path, trial: Callable[[], str]) -> list[Check]:
    return preflight.run(
        proc=proc,
        sys=sysfs,
        tracefs=preflight.find_tracefs(sysfs),
        trial=trial,
        release=os.uname().release,
        machine=platform.machine(),
        map_bytes=map_bytes(config),
        kernel_headers=config.kernel_headers,
    )


def _trial(config: Config, sysfs: Path) -> str:
    formats = read_formats(sysfs)
    if formats is None:
        raise program.LoadError("not tried: kvm:kvm_exit is missing")
    loaded = program.load(request(config, formats.kvm_exit, attach=False))
    try:
        return f"{len(loaded.programs)} programs compiled and loaded, {map_bytes(config) >> 20} MiB of maps"
    finally:
        loaded.close()
