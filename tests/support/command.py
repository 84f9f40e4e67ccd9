"""The command line as a process: what it prints, and its exit status."""

from __future__ import annotations

import subprocess
import sys


def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    """`python3 -m exporter` with these arguments, without standard input; `more` is for subprocess.run()."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "exporter", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
        **more,
    )
