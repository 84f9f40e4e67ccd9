"""Apply each change to a copy of the tracked files, and run its tests there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.mutants.change import Change, changed

SECONDS = 600
"""The tests of one change take a few seconds. They have this long on a busy machine."""

_PYTEST_OK, _PYTEST_FAILED = 0, 1
_NOT_LOADED = ("cannot compile the BPF program", "the kernel refused the BPF program")


class MutantsError(Exception):
    """The run says nothing about the tests. The message is for the person who runs it."""


def failure(tree: Path, change: Change | None, tests: Iterable[str]) -> str:
    """Return the output of the first test that fails in a copy of the tree with the change; "" if none fails.

    Raises MutantsError if the tests cannot be run, or if they fail only because the changed program cannot be loaded.
    """
    name = change.name if change else "the unchanged tree"
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        _copy_tracked(tree, copy)
        if change:
            path = copy / change.file
            path.write_text(changed(path.read_text(), change))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        # Required: a skipped test would count as one that noticed nothing.
        environment = {**os.environ, "KERNEL_SUITE": "required", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise MutantsError(f"{name}: its tests did not end within {SECONDS} s") from error
    if done.returncode not in (_PYTEST_OK, _PYTEST_FAILED):
        raise MutantsError(f"{name}: pytest cannot run its tests:\n{done.stdout}{done.stderr}")
    for sign in _NOT_LOADED:
        if sign in done.stdout:
            raise MutantsError(f"{name}: {sign}:\n{done.stdout}")
    return done.stdout if done.returncode == _PYTEST_FAILED else ""


def _copy_tracked(tree: Path, target: Path) -> None:
    # safe.directory: root may run this in the checkout of another user.
    command = ["git", "-c", "safe.directory=*", "-C", str(tree), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (tree / name).is_file():  # a deleted file stays in the index until the commit
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, target / name, follow_symlinks=False)


def run(tree: Path, changes: Sequence[Change]) -> int:
    """Print a line for each change, and the sum. Return the exit status: 1 if a change survived or is invalid.

    Raises MutantsError if the tests fail without any change.
    """
    to_kill = [change for change in changes if not change.equivalent]
    tests = sorted({test for change in to_kill for test in change.tests})
    if tests and (output := failure(tree, None, tests)):
        raise MutantsError(f"the tests fail on the unchanged tree already:\n{output}")
    killed = 0
    for change in changes:
        if change.equivalent:
            print(f"equivalent  {change.name}: {change.equivalent}", flush=True)
            continue
        try:
            noticed = failure(tree, change, change.tests) != ""
        except (MutantsError, ValueError) as error:
            print(f"INVALID     {error}", flush=True)
            continue
        killed += noticed
        unnoticed = "" if noticed else f" ({change.file}): {' '.join(change.tests)}"
        print(f"{'killed     ' if noticed else 'SURVIVED   '} {change.name}{unnoticed}", flush=True)
    print(f"{killed} of {len(to_kill)} killed, {len(changes) - len(to_kill)} equivalent")
    return 0 if killed == len(to_kill) else 1
