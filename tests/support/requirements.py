"""The requirements of tests that load BPF programs."""

from __future__ import annotations

import os
import subprocess
import sys


def missing() -> str:
    """Return why BPF programs cannot be loaded, or "" if they can."""
    if os.geteuid() != 0:
        return "not root: BPF programs cannot be loaded"
    importable = subprocess.run([sys.executable, "-c", "import bcc"], capture_output=True, check=False)
    if importable.returncode:
        return f"{sys.executable} has no module bcc"
    return ""


def missing_kvm() -> str:
    """Return why programs cannot be attached to KVM, or "" if they can."""
    if not os.path.exists("/sys/kernel/tracing/events/kvm/kvm_exit"):
        return "no kvm tracepoints: KVM is not loaded, or tracefs is not mounted on /sys/kernel/tracing"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no /dev/kvm"
    return ""
