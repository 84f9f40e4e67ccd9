"""This host's KVM: tracepoint formats, requests to the loader, and the requirements that the host does not meet."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from exporter.config.options import Config, Limits
from exporter.kernel import launcher, preflight, program, remedies
from exporter.kernel.isa import registry
from exporter.kernel.preflight import Check
from exporter.kernel.preflight.kernel import CLOSED, is_locked_down, why_no_tracefs
from exporter.kernel.tracepoint import FormatError, TracepointFormat, parse_format

# A slot takes about 500 bytes, including its entries in the hash and on the stack. A cell takes about 1,220 bytes,
# including its entry on the stack.
_SLOT_BYTES, _CELL_BYTES = 512, 1280

NO_KVM = "the tracepoint kvm:kvm_exit does not exist"
"""The sentence for a kernel without KVM; kvm_remedy() is its remedy."""


class Formats(NamedTuple):
    """Formats of the tracepoints whose fields and names are read at run time."""

    kvm_exit: TracepointFormat
    kvm_userspace_exit: TracepointFormat


def kvm_remedy() -> str:
    """Return the remedy for this host if it has no KVM; "" if its instruction set is unknown."""
    return registry.kvm_remedy(platform.machine())


def read_texts(sysfs: Path, proc: Path = Path("/proc")) -> dict[str, str] | None:
    """Return the texts of the tracepoint formats, by event; None while the kernel has no KVM. Raises LoadError."""
    tracefs = preflight.find_tracefs(sysfs)
    if tracefs is None:
        raise program.LoadError(*why_no_tracefs(sysfs, proc))
    events = tracefs / "events"
    try:
        return {
            name: (events / program.TRACEPOINTS[name].system / name / "format").read_text() for name in Formats._fields
        }
    except FileNotFoundError:
        return None
    except PermissionError as error:
        if is_locked_down(sysfs):
            raise program.LoadError(CLOSED, remedies.UNLOCK) from error
        raise program.LoadError(f"cannot read {error.filename}: {error.strerror}", remedies.READ_TRACEFS) from error
    except (OSError, UnicodeDecodeError) as error:
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else f"{events}/kvm: {error}"
        raise program.LoadError(f"cannot read {what}") from error


def never_comes(sysfs: Path) -> program.LoadError | None:
    """Return the error for a host that will never have kvm_exit; None while KVM can still be loaded."""
    machine = platform.machine()
    remedy = registry.machine_remedy(machine)
    if remedy:
        return program.LoadError(f"{NO_KVM}: this machine is {machine}", remedy)
    tracefs = preflight.find_tracefs(sysfs)
    if tracefs and preflight.has_kvm_without_exit(tracefs):
        what = "KVM is loaded, but this kernel's KVM has no such tracepoint"
        return program.LoadError(f"{NO_KVM}: {what}", remedies.NEWER_KERNEL)
    return None


def lacks_device(sysfs: Path) -> bool:
    """Return True if KVM is a module that does not work yet: the module of the vendor, which makes its device, is not
    loaded."""
    return (sysfs / "kernel/btf/kvm").exists() and not (sysfs / "class/misc/kvm").exists()


def required_texts(sysfs: Path) -> dict[str, str]:
    """Return the texts of read_texts(). Raises LoadError, also where the kernel has no KVM."""
    texts = read_texts(sysfs)
    if texts is None:
        raise never_comes(sysfs) or program.LoadError(f"{NO_KVM}: KVM is not loaded", kvm_remedy())
    return texts


def parsed(texts: Mapping[str, str]) -> Formats:
    """Parse the texts of read_texts(). Raises LoadError."""
    try:
        return Formats(*(parse_format(texts[name]) for name in Formats._fields))
    except FormatError as error:
        remedy = "report it with the files events/kvm/*/format"
        raise program.LoadError(f"a tracepoint format of KVM cannot be read: {error}", remedy) from error


def read_formats(sysfs: Path) -> Formats:
    """Read and parse the formats. Raises LoadError, also where the kernel has no KVM."""
    return parsed(required_texts(sysfs))


def late_replay_request(config: Config) -> program.LoadRequest:
    """Return the request for a program that counts a recording, which nobody has read yet."""
    return program.late_replay_request(
        slots=config.limits.vcpus,
        cells=config.limits.cells,
        bpf_stats=config.bpf_stats,
        kernel_headers=config.kernel_headers,
    )


def host_request(config: Config, sysfs: Path, *, attach: bool = True) -> program.LoadRequest:
    """Return the request for a program of this host. The loader waits for KVM, and reads the formats itself."""
    return program.LoadRequest(
        front="",
        defines={},
        sysfs=str(sysfs),
        slots=config.limits.vcpus,
        cells=config.limits.cells,
        attach=attach,
        time_split=config.level.time != "off",
        bpf_stats=config.bpf_stats,
        kernel_headers=config.kernel_headers,
    )


def map_bytes(limits: Limits) -> int:
    """Return the bytes of kernel memory that the maps take, rounded up."""
    return limits.vcpus * _SLOT_BYTES + limits.cells * _CELL_BYTES


def checks(config: Config, *, proc: Path, sysfs: Path) -> list[Check]:
    """Run the whole preflight, with a trial load that attaches nothing but the check of kvm_exit (exit_check.py)."""
    return _checks(config, proc, sysfs, lambda: _trial_load(config, sysfs))


def lacks(request: Mapping[str, Any]) -> list[str]:
    """Return the requirements of a failed LoadRequest (a dict) that this host does not meet, in a few words each."""
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


def _trial_load(config: Config, sysfs: Path) -> str:
    """Load the program and close it again; returns the detail of the row. Raises LoadError."""
    required_texts(sysfs)
    loaded = launcher.load(host_request(config, sysfs, attach=False))
    try:
        detail = f"{len(loaded.programs)} programs compiled and loaded, {map_bytes(config.limits) >> 20} MiB of maps"
        reason = loaded.classic_reason
        if reason:
            detail += f"; kvm_exit is read from its classic tracepoint ({reason})"
        if loaded.unsplit_reason and config.level.time != "off":
            detail += f"; the time of exits is not split ({loaded.unsplit_reason})"
        return detail
    finally:
        loaded.close()
