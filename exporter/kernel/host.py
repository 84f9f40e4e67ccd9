"""This host's KVM as the loader wants it, and what the host lacks where it cannot be loaded."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from exporter.config.options import Config, Limits
from exporter.kernel import launcher, preflight, program
from exporter.kernel.preflight import Check
from exporter.kernel.tracepoint import FormatError, TracepointFormat, parse_format

# A slot with its entry in the hash and on the stack, and a cell with its entry on the stack: about 500 and 1,220 bytes.
_SLOT_BYTES, _CELL_BYTES = 512, 1280


class Formats(NamedTuple):
    """Tracepoint formats of the events whose fields and names are read at run time."""

    kvm_exit: TracepointFormat
    kvm_userspace_exit: TracepointFormat


def read_texts(sysfs: Path) -> dict[str, str] | None:
    """Read what the running kernel says of its tracepoints; None while KVM is not there. Raises LoadError."""
    tracefs = preflight.find_tracefs(sysfs)
    if tracefs is None:
        raise program.LoadError("tracefs is not mounted", preflight.MOUNT_TRACEFS)
    events = tracefs / "events" / "kvm"
    try:
        return {name: (events / name / "format").read_text() for name in Formats._fields}
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise program.LoadError(f"cannot read {error.filename}: {error.strerror}", preflight.READ_TRACEFS) from error
    except (OSError, UnicodeDecodeError) as error:
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else f"{events}: {error}"
        raise program.LoadError(f"cannot read {what}") from error


def required_texts(sysfs: Path) -> dict[str, str]:
    """Read the texts as read_texts() does. Raises LoadError if KVM is not loaded, too."""
    texts = read_texts(sysfs)
    if texts is None:
        remedy = "modprobe kvm_intel or kvm_amd; on arm64 the kernel must have booted at EL2"
        raise program.LoadError("the tracepoint kvm:kvm_exit does not exist: KVM is not loaded", remedy)
    return texts


def parsed(texts: Mapping[str, str]) -> Formats:
    """Parse the texts of read_texts(). Raises LoadError."""
    try:
        return Formats(*(parse_format(texts[name]) for name in Formats._fields))
    except FormatError as error:
        remedy = "report it with the files events/kvm/*/format"
        raise program.LoadError(f"a tracepoint format of KVM cannot be read: {error}", remedy) from error


def read_formats(sysfs: Path) -> Formats | None:
    """Read and parse the formats; None while KVM is not there. Raises LoadError."""
    texts = read_texts(sysfs)
    return None if texts is None else parsed(texts)


def request(config: Config, kvm_exit: TracepointFormat, *, attach: bool) -> program.LoadRequest:
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


def attach_request(config: Config, sysfs: Path) -> program.LoadRequest:
    """Build what the loader is asked for on this host; it then waits for KVM, and reads the formats itself."""
    return program.LoadRequest(
        front="",
        defines={},
        sysfs=str(sysfs),
        slots=config.limits.vcpus,
        cells=config.limits.cells,
        bpf_stats=config.bpf_stats,
        kernel_headers=config.kernel_headers,
    )


def map_bytes(limits: Limits) -> int:
    """Kernel memory that the maps pin, in bytes, rounded up."""
    return limits.vcpus * _SLOT_BYTES + limits.cells * _CELL_BYTES


def checks(config: Config, *, proc: Path, sysfs: Path) -> list[Check]:
    """The whole preflight, a trial load that attaches nothing included."""
    return _checks(config, proc, sysfs, lambda: _trial(config, sysfs))


def lacks(request: Mapping[str, Any]) -> list[str]:
    """What this host lacks for a program.Request that failed (as a dictionary): a few words for each."""
    limits = Limits(request["slots"], request["cells"])
    config = Config(limits=limits, kernel_headers=request["kernel_headers"])
    found = _checks(config, Path("/proc"), Path(request["sysfs"] or "/sys"), lambda: "")
    missing = [check for check in found if not check.ok]
    if not request["attach"]:  # a replay needs no tracepoints
        missing = [check for check in missing if not check.name.startswith("trace") and "tracepoints" not in check.name]
    return [f"{check.name}: {check.detail} ({check.remedy})" for check in missing]


def _checks(config: Config, proc: Path, sysfs: Path, trial: Callable[[], str]) -> list[Check]:
    return preflight.run(
        proc=proc,
        sys=sysfs,
        tracefs=preflight.find_tracefs(sysfs),
        trial=trial,
        release=os.uname().release,
        machine=platform.machine(),
        map_bytes=map_bytes(config.limits),
        kernel_headers=config.kernel_headers,
    )


def _trial(config: Config, sysfs: Path) -> str:
    formats = read_formats(sysfs)
    if formats is None:
        raise program.LoadError("not tried: kvm:kvm_exit is missing")
    loaded = launcher.load(request(config, formats.kvm_exit, attach=False))
    try:
        return f"{len(loaded.programs)} programs compiled and loaded, {map_bytes(config.limits) >> 20} MiB of maps"
    finally:
        loaded.close()
