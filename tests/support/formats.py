"""Captured formats of tracepoints, by kernel."""

from __future__ import annotations

from exporter.kernel.tracepoint import TracepointFormat, parse_format
from exporter.naming.reasons import ReasonNames
from tests.support.paths import FORMATS

KERNELS = sorted(path.name for path in FORMATS.iterdir())


def read_format(kernel: str, event: str) -> TracepointFormat:
    return parse_format((FORMATS / kernel / f"{event}.format").read_text())


def formats(kernel: str) -> tuple[TracepointFormat, TracepointFormat]:
    """kvm_exit and kvm_userspace_exit of this kernel."""
    return read_format(kernel, "kvm_exit"), read_format(kernel, "kvm_userspace_exit")


def reason_names(kernel: str | None) -> ReasonNames:
    """The names on this kernel; None: the built-in ones alone."""
    return ReasonNames(*formats(kernel)) if kernel else ReasonNames()
