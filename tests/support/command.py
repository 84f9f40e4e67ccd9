"""The command line: what it prints, and its exit status."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import pytest

from exporter.commands import cli


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


def refused(*arguments: str) -> str:
    """What is said on stderr of arguments that are wrong, and nothing on stdout, with status 2; in this process."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert (caught.value.code, out.getvalue()) == (2, "")
    return said.getvalue()
