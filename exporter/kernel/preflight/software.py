"""Rows about installed software, and the trial load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Callable

from exporter.kernel.preflight.check import Check, exists
from exporter.kernel.remedies import BUILTIN_HEADERS


def check_headers(option: str, build: Path, archive: Path) -> Check:
    """Check that the headers exist that the program is compiled with."""
    name = "kernel headers"
    if option == "builtin":
        return Check(name, True, "built-in headers", needed=False)
    if option != "system":
        return _found(name, [Path(option)], "give kernel_headers a header tree, or leave it builtin")
    return _found(name, [build, archive], f"install the running kernel's headers, or {BUILTIN_HEADERS}")


def _found(name: str, paths: Sequence[Path], remedy: str) -> Check:
    found = [str(path) for path in paths if exists(path)]
    if found:
        return Check(name, True, found[0])
    return Check(name, False, f"no {' and no '.join(map(str, paths))}", remedy)


def version_of(distribution: str) -> str:
    """Return the version of an installed distribution; "" if it is not installed."""
    from importlib import metadata  # noqa: PLC0415 - it would cost the waiting loader some megabytes

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def check_python_modules(version: Callable[[str], str]) -> Check:
    """Check that the modules of other projects are installed. `version` returns a distribution's version, or ""."""
    # The trial load, in a child process, checks bcc: an import here would cost this process 100 MB.
    found, missing = [], []
    for distribution in ("prometheus_client", "PyYAML", "tornado"):
        installed = version(distribution)
        if installed:
            found.append(f"{distribution} {installed}")
        else:
            missing.append(distribution)
    if missing:
        remedy = (
            "install python3-prometheus-client, python3-tornado and python3-yaml (Debian, Ubuntu), "
            "python3-prometheus_client, python3-tornado and python3-pyyaml (Fedora, RHEL)"
        )
        return Check("python modules", False, f"without {', '.join(missing)}", remedy)
    return Check("python modules", True, ", ".join(found))


def check_trial_load(trial: Callable[[], str]) -> Check:
    """Check that the program can be compiled and loaded. It is not attached; only the check of kvm_exit is, briefly."""
    try:
        return Check("trial load", True, trial())
    except Exception as error:  # this row reports any reason why the program does not load
        what = str(getattr(error, "what", "") or error) or type(error).__name__
        return Check("trial load", False, what, str(getattr(error, "remedy", "")))
