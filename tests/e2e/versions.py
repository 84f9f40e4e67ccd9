"""The kernel of the machine, and the packages that the exporter uses there."""

from __future__ import annotations

import platform
import subprocess

PACKAGES = {"bcc": "python3-bpfcc", "prometheus_client": "python3-prometheus-client", "tornado": "python3-tornado"}


def line() -> str:
    """Return one line, which matrix.py reads."""
    query = ["dpkg-query", "--show", "--showformat=${Version}"]
    found = {
        name: subprocess.run([*query, package], stdout=subprocess.PIPE, text=True, check=True).stdout
        for name, package in PACKAGES.items()
    }
    versions = {"Linux": platform.release(), "Python": platform.python_version(), **found}
    return ", ".join([platform.machine(), *(f"{name} {version}" for name, version in versions.items())])
