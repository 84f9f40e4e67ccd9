"""make mutants: its lines and its exit status, with a small tree in place of the checkout."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mutants import __main__ as command
from tests.mutants.change import Change
from tests.mutants.run import MutantsError, run

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="no git: it lists the files to copy")

TESTS = ("test_sum.py",)
PLUS = Change("a difference", "sums.py", "a + b", "a - b", TESTS)
ORDER = Change("another order", "sums.py", "a + b", "b + a", (), "the order of a sum does not matter")
ABSOLUTE = Change("a negative sum", "sums.py", "a + b", "abs(a + b)", TESTS)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "sums.py").write_text("def total(a, b):\n    return a + b\n")
    (tmp_path / "test_sum.py").write_text("from sums import total\ndef test_sum():\n    assert total(2, 3) == 5\n")
    (tmp_path / "untracked.py").write_text("raise RuntimeError\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "sums.py", "test_sum.py"], cwd=tmp_path, check=True)
    return tmp_path


def test_killed_and_equivalent_changes(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tree, [PLUS, ORDER]) == 0
    assert capsys.readouterr().out == (
        "killed      a difference\n"
        "equivalent  another order: the order of a sum does not matter\n"
        "1 of 1 killed, 1 equivalent\n"
    )
    assert (tree / "sums.py").read_text() == "def total(a, b):\n    return a + b\n"


def test_a_change_that_survives(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tree, [ABSOLUTE, PLUS]) == 1
    assert capsys.readouterr().out == (
        "SURVIVED    a negative sum (sums.py): test_sum.py\nkilled      a difference\n1 of 2 killed, 0 equivalent\n"
    )


def test_changes_that_say_nothing(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text that is not there, Python that is none, tests that are not there, and a program that is not loaded."""
    changes = [
        Change("no such text", "sums.py", "a * b", "a / b", TESTS),
        Change("no Python", "sums.py", "def total", "total", TESTS),
        Change("no program", "sums.py", "a + b", "1 / 0  # cannot compile the BPF program", TESTS),
        PLUS,
    ]
    assert run(tree, changes) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("INVALID", "killed", "1 of"))]
    assert lines == [
        "INVALID     no such text: the old text occurs 0 times in sums.py",
        "INVALID     no Python: pytest cannot run its tests:",
        "INVALID     no program: cannot compile the BPF program:",
        "killed      a difference",
        "1 of 4 killed, 0 equivalent",
    ]


def test_tests_that_fail_without_a_change(tree: Path) -> None:
    (tree / "sums.py").write_text("def total(a, b):\n    return 7  # a + b\n")
    with pytest.raises(MutantsError, match=r"^the tests fail on the unchanged tree already:\n(.*\n)*E +assert 7 == 5"):
        run(tree, [PLUS])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("no such change", "mutants: no change matches 'no such change'\n"),
        ("(", "mutants: the pattern is no regular expression: missing ), unterminated subpattern at position 0\n"),
    ],
)
def test_a_wrong_pattern(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pattern: str, message: str
) -> None:
    monkeypatch.setattr("sys.argv", ["mutants", pattern])
    assert command.main() == 2
    assert capsys.readouterr().err == message
