"""Run the command line, in a new process or in this one."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import pytest

from exporter.commands import cli


def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    """Run `python3 -m exporter` with an empty standard input. `more` is passed to subprocess.run()."""
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
    """Run the command line with wrong arguments in this process.

    Return the text on stderr. Asserts that the status is 2 and stdout is empty.
    """
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert (caught.value.code, out.getvalue()) == (2, "")
    return said.getvalue()
