""".ci/run is tested with stand-ins for its parts: which parts run at the same time, the output, and the exit status."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT

RUN = ROOT / ".ci/run"

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="no bash")


class Gate:
    """A list of stand-in parts. Each part notes when it starts and when it ends."""

    def __init__(self, folder: Path) -> None:
        self._parts, self._notes = folder / "parts", folder / "notes"
        self._lines = ["# STAGE LOCKS PART COMMAND", ""]

    def part(self, stage: str, locks: str, name: str, command: str = "sleep 0.2") -> None:
        noted = f"echo +{name} >>{self._notes}; {command}; status=$?; echo end-{name} >>{self._notes}; exit $status"
        self._lines.append(f"{stage}   {locks}  {name}\t{noted}")

    def start(self, jobs: int = 2) -> subprocess.Popen[str]:
        self._parts.write_text("\n".join(self._lines) + "\n")
        return subprocess.Popen(
            [RUN, self._parts],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "JOBS": str(jobs)},
            start_new_session=True,
        )

    def run(self, jobs: int = 2) -> tuple[int, str]:
        process = self.start(jobs)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def notes(self) -> list[str]:
        """Return the notes in order: +PART for a start, -PART for an end."""
        return self._notes.read_text().replace("end-", "-").split() if self._notes.exists() else []

    def together(self) -> set[frozenset[str]]:
        """Return the pairs of parts that ran at the same time."""
        running: set[str] = set()
        pairs: set[frozenset[str]] = set()
        for note in self.notes():
            name = note[1:]
            if note[0] == "-":
                running.remove(name)
            else:
                pairs |= {frozenset((name, other)) for other in running}
                running.add(name)
        return pairs


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # the process has ended
        return b""


def without_seconds(said: str) -> str:
    return re.sub(r" +\d+ s\b", " N s", said)


def test_the_output_of_each_part_is_printed_whole_and_a_table_comes_at_the_end(gate: Gate) -> None:
    gate.part("first", "-", "prepare", "echo ready")
    gate.part("beside", "-", "slow", "for i in 1 2 3; do echo $i; sleep 0.2; done; echo '==== 3 passed in 1s ===='")
    gate.part("beside", "-", "quick", "sleep 0.3; echo error >&2; echo 2 passed")
    status, said = gate.run()
    assert status == 0
    assert re.sub(r"starts: .*", "starts", without_seconds(said)) == (
        "== prepare starts\n== prepare: all of its output\nready\n== prepare: ok after N s\n"
        "== slow starts\n== quick starts\n"
        "== quick: all of its output\nerror\n2 passed\n== quick: ok after N s\n"
        "== slow: all of its output\n1\n2\n3\n==== 3 passed in 1s ====\n== slow: ok after N s\n"
        "== summary\n"
        "prepare N s  ok: ready\n"
        "quick N s  ok: 2 passed\n"
        "slow N s  ok: 3 passed in 1s\n"
        "in all N s\nall parts passed\n"
    )
    assert gate.together() == {frozenset(("slow", "quick"))}


def test_a_failed_part_is_named_and_stops_no_other_part(gate: Gate) -> None:
    gate.part("alone", "-", "first", "echo 1 failed; exit 3")
    gate.part("beside", "-", "second", "kill -9 $$")
    gate.part("beside", "-", "third", "echo 5 passed")
    status, said = gate.run()
    assert status == 1
    assert without_seconds(said).endswith("\nfailed: first second\n")
    assert "first N s  FAILED, status 3: 1 failed\n" in without_seconds(said)
    assert "second N s  FAILED, status 137: \n" in without_seconds(said)
    assert "third N s  ok: 5 passed\n" in without_seconds(said)


def test_nothing_starts_if_the_first_part_fails(gate: Gate) -> None:
    gate.part("first", "-", "prepare", "false")
    gate.part("alone", "-", "other")
    status, said = gate.run()
    assert (status, said.splitlines()[-1], gate.notes()) == (1, "failed: prepare", ["+prepare", "-prepare"])


def test_parts_that_need_the_machine_run_one_after_the_other(gate: Gate) -> None:
    for name in ("one", "two"):
        gate.part("alone", "-", name)
    for name in ("three", "four"):
        gate.part("beside", "-", name)
    assert gate.run(jobs=4)[0] == 0
    assert gate.notes()[:4] == ["+one", "-one", "+two", "-two"]
    assert gate.together() == {frozenset(("three", "four"))}


def test_parts_with_the_same_lock_never_run_at_the_same_time(gate: Gate) -> None:
    locks = {"a": "x", "b": "x,y", "c": "y", "d": "x,yy", "e": "-"}
    for name, lock in locks.items():
        gate.part("beside", lock, name)
    assert gate.run(jobs=5)[0] == 0
    assert len(gate.notes()) == 10
    allowed = {frozenset(pair) for pair in ("ac", "cd", "ae", "be", "ce", "de")}
    assert gate.together() <= allowed
    assert frozenset("ae") in gate.together()  # these two parts start first


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_at_most_as_many_parts_as_jobs_run_at_the_same_time(gate: Gate, jobs: int) -> None:
    for name in "abcdef":
        gate.part("beside", "-", name)
    assert gate.run(jobs)[0] == 0
    running = most = 0
    for note in gate.notes():
        running += 1 if note[0] == "+" else -1
        most = max(most, running)
    assert (most, len(gate.notes())) == (jobs, 12)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_parts(gate: Gate, number: signal.Signals) -> None:
    for name in ("one", "two"):
        gate.part("beside", "-", name, "sleep 61.803")
    process = gate.start()
    deadline = time.monotonic() + 20
    while len(gate.notes()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    process.communicate()
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if command_line(pid) == b"sleep\x0061.803\x00"]


def test_the_parts_contain_every_test_suite() -> None:
    """`make test` runs the tests of `make rules-test`."""
    text = (ROOT / ".ci/parts").read_text()
    lines = [line.split(maxsplit=3) for line in text.splitlines() if line[:1] not in ("", "#")]
    assert {line[0] for line in lines} == {"first", "alone", "beside"}
    assert len({line[2] for line in lines}) == len(lines)
    words = [word for line in lines for word in line[3].replace('"', "").split()]
    makefile = (ROOT / "Makefile").read_text()
    rules = dict(re.findall(r"^([\w-]+(?: [\w-]+)*):(?!=)(.*)$", makefile, re.MULTILINE))
    targets = {name for names in rules for name in names.split()}
    called = {word for word in words if re.fullmatch(r"[a-z0-9-]+", word)} - {"make"}
    assert called == {word for word in called if word in targets}
    deploy = set(rules["deploy-test"].split()) - {"rules-test"}
    assert deploy | {"test", "fuzz", "distros"} <= called
    assert {"e2e-arm64", "e2e-amd64", "e2e-riscv64", "e2e-systemd", "e2e-matrix", "e2e-classic"} <= called
    assert "DISTROS_TESTS=tests/kernel" in words
