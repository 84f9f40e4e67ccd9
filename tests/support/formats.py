"""Tracepoint formats that were captured on real kernels."""

from __future__ import annotations

from exporter.kernel.tracepoint import TracepointFormat, parse_format
from exporter.naming.reasons import ReasonNames
from tests.support.paths import FORMATS

KERNELS = sorted(path.name for path in FORMATS.iterdir())


def read_format(kernel: str, event: str) -> TracepointFormat:
    return parse_format((FORMATS / kernel / f"{event}.format").read_text())


def formats(kernel: str) -> tuple[TracepointFormat, TracepointFormat]:
    """Return the formats of kvm_exit and of kvm_userspace_exit that this kernel has."""
    return read_format(kernel, "kvm_exit"), read_format(kernel, "kvm_userspace_exit")


def reason_names(kernel: str | None) -> ReasonNames:
    """Return the names of exit reasons on this kernel. With None, return only the built-in names."""
    return ReasonNames(*formats(kernel)) if kernel else ReasonNames()
