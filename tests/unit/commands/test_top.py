"""`top` without a terminal: its output, its exit status and its error lines."""

from __future__ import annotations

import csv
import io
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.readings.reading import USERSPACE, Reading
from tests.support.command import refused, run
from tests.support.fake_exporter import FakeExporter
from tests.support.readings import SECOND, counted, reading, thread

SAID = "kvm-exit-exporter top: "
PRESENT_USER = f"a process of user {pwd.getpwuid(os.geteuid()).pw_name}"
HEADER = "TGID     TID      COMM             KVM_EXIT_REASON               COUNT AVG_TIME (ns)\n"


def at(n: int) -> Reading:
    return reading(
        n + 1,
        thread(11, 12, counted("IRQ", "interrupt", 5 + 101 * n, {52: 5 + 101 * n}, (5 + 101 * n) * 1000)),
        thread(
            11,
            13,
            counted("EC_WFx", "idle", 7 * n, {80: 7 * n}, 7 * n * 10**8),
            counted("KVM_EXIT_IO", "pio", 3 * n, {60: 3 * n}, 3 * n, kind=USERSPACE),
            vcpu="1",
        ),
        since_ns=1,
        counters={"dropped_no_cell": 2 + 17 * n},
    )


@pytest.fixture
def fake() -> Iterator[FakeExporter]:
    fake = FakeExporter(at)
    yield fake
    fake.close()


def read(fake: FakeExporter, *arguments: str) -> subprocess.CompletedProcess[str]:
    said = run("top", "--source", "exporter", "--url", fake.url, *arguments)
    assert "Traceback" not in said.stderr
    return said


def test_the_table_has_only_the_exits_of_the_run(fake: FakeExporter) -> None:
    """The first reading already has 5 IRQ exits. The table has only the 101 exits that follow."""
    said = read(fake, "0.1")
    assert said.stdout == HEADER + (
        "11       12       CPU 0/KVM        IRQ                             101          1000\n"
        "11       13       CPU 1/KVM        EC_WFx                            7     100000000\n"
    )
    assert said.returncode == 0
    assert said.stderr == (
        f"{SAID}reading the exporter at {fake.url} ({PRESENT_USER})\n"
        f"{SAID}17 exits were not counted: no room for their reason (raise limits.cells and restart)\n"
    )


def test_a_table_is_printed_after_each_interval(fake: FakeExporter) -> None:
    said = read(fake, "0.35", "-i", "0.1", "--no-idle")
    tables = said.stdout.split("\n\n")
    assert len(tables) == 4
    for each in tables:
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  1\.000 s\n"
            + re.escape(HEADER)
            + r"11 +12 +CPU 0/KVM +IRQ +101 +1000\n?",
            each,
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_prints_the_table(fake: FakeExporter, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "exporter", "top", "--source", "exporter", "--url", fake.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert process.stderr.readline() == f"{SAID}reading the exporter at {fake.url} ({PRESENT_USER})\n"
    assert process.stderr.readline() == f"{SAID}Ctrl-C ends the run and prints the table\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert re.search(rf"IRQ +{101 * (fake.asked - 1)} +1000\n", out)


def test_ctrl_c_does_not_wait_for_an_exporter_that_hangs(fake: FakeExporter) -> None:
    fake.answer = lambda n: at(n) if n < 2 else fake.hang(n)
    command = [sys.executable, "-m", "exporter", "top", "--source", "exporter", "--url", fake.url, "-i", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert fake.hanging.wait(30)
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - pressed < 5  # without Ctrl-C, top waits 10 s for an answer
    assert process.returncode == 1
    assert out.count("IRQ") == 1
    assert re.search(r"the printed numbers end with the last reading: no answer for \d\.\d s\n", err)


def test_json_has_the_counts_of_the_run(fake: FakeExporter) -> None:
    said = read(fake, "0.1", "--json")
    made = json.loads(said.stdout)
    assert said.stdout.count("\n") == 1
    assert made["source"] == f"the exporter at {fake.url}"
    assert (made["version"], made["replay"], made["elapsed_ns"]) == (1, False, SECOND)
    assert abs(made["time"] - time.time()) < 60
    assert made["counters"] == {"dropped_no_cell": 17}
    assert [
        (vcpu["tid"], reason["kind"], reason["reason"], reason["exits"], reason["rate"])
        for vcpu in made["vcpus"]
        for reason in vcpu["reasons"]
    ] == [
        (12, "exit", "IRQ", 101, 101.0),
        (13, "userspace", "KVM_EXIT_IO", 3, 3.0),
        (13, "exit", "EC_WFx", 7, 7.0),
    ]
    made = json.loads(read(fake, "0.1", "--json", "--limit", "1").stdout)
    assert [vcpu["tid"] for vcpu in made["vcpus"]] == [12]
    lines = read(fake, "0.2", "-i", "0.1", "--json", "--reason", "IRQ").stdout.splitlines()
    assert [[vcpu["reasons"][0]["exits"] for vcpu in json.loads(line)["vcpus"]] for line in lines] == [[101], [101]]


def test_csv_has_a_row_for_each_vcpu_and_reason(fake: FakeExporter) -> None:
    said = read(fake, "0.2", "-i", "0.1", "--csv")
    rows = list(csv.DictReader(io.StringIO(said.stdout)))
    assert [(row["tid"], row["reason"], row["count"], row["avg_ns"]) for row in rows] == [
        ("12", "IRQ", "101", "1000"),
        ("13", "EC_WFx", "7", "100000000"),
    ] * 2
    rows = list(csv.DictReader(io.StringIO(read(fake, "0.1", "--csv", "--userspace").stdout)))
    assert [(row["tid"], row["kind"], row["reason"], row["count"]) for row in rows] == [
        ("13", "userspace", "KVM_EXIT_IO", "3")
    ]


@pytest.mark.parametrize(
    ("filters", "tids"),
    [
        (("-p", "11"), ["12", "13"]),
        (("-p", "1"), []),
        (("-t", "13,1"), ["13"]),
        (("-t", "12", "-t", "13"), ["12", "13"]),
        (("--vm", "web-1"), ["12", "13"]),
        (("--vm", "web"), []),
        (("--vcpu", "1"), ["13"]),
        (("--vcpu", "01"), ["13"]),
        (("--vcpu", "10"), []),
        (("--reason", "IRQ,EC_HVC64"), ["12"]),
        (("--reason", "irq"), []),
        (("--no-idle",), ["12"]),
        (("--limit", "1"), ["12"]),
        (("--sort", "avg", "--limit", "1"), ["12"]),
    ],
)
def test_filters_select_rows(fake: FakeExporter, filters: tuple[str, ...], tids: list[str]) -> None:
    said = read(fake, "0.01", *filters)
    assert [line.split()[1] for line in said.stdout.splitlines()[1:]] == tids
    assert said.returncode == 0
    assert ("no exit matches" in said.stderr) == (not tids)


def test_filters_that_match_nothing_are_reported(fake: FakeExporter) -> None:
    assert f"{SAID}no exit matches --reason; seen: EC_WFx, IRQ\n" in read(fake, "0.01", "--reason", "WFX").stderr
    said = read(fake, "0.01", "--vm", "x")
    assert (said.stdout, said.returncode) == (HEADER, 0)
    assert f"{SAID}no exit matches the filters; without them there are 2 rows\n" in said.stderr
    fake.answer = lambda n: reading(n + 1, since_ns=1)
    assert f"{SAID}no exit was seen: is a VM running on this host?\n" in read(fake, "0.01").stderr


def test_a_vcpu_that_ends_during_the_run_is_in_the_table(fake: FakeExporter) -> None:
    def answer(n: int) -> Reading:
        ended = thread(21, 22, counted("IRQ", "interrupt", 23, {52: 23}, 23), alive=n < 1)
        return reading(n + 1, *([ended] if n == 1 else []), since_ns=1)

    fake.answer = answer
    said = read(fake, "0.2", "-i", "0.1")
    assert len(re.findall(r"21 +22 +CPU 0/KVM +IRQ +23 +1\n", said.stdout)) == 1


def test_an_exporter_that_fails_ends_the_run_with_status_1(fake: FakeExporter) -> None:
    fake.answer = lambda n: at(n) if n < 2 else (500, b"")
    said = read(fake, "0.3", "-i", "0.1")
    assert said.returncode == 1
    assert said.stdout.count("IRQ") == 1
    assert said.stderr.splitlines()[-1] == (
        f"{SAID}the printed numbers end with the last reading: {fake.url} is not a kvm-exit-exporter of this version: "
        "it answers 500 to /-/vcpus"
    )


def test_a_restart_of_the_exporter_is_reported(fake: FakeExporter) -> None:
    fake.answer = lambda n: at(n) if n < 1 else reading(1, at(0).vcpus[0], since_ns=7)
    said = read(fake, "0.1")
    assert said.returncode == 0
    assert "the exporter was restarted during the run" in said.stderr


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((404, b""), "is not a kvm-exit-exporter of this version: it answers 404 to /-/vcpus"),
        ((302, b""), "is not a kvm-exit-exporter of this version: it answers 302 to /-/vcpus"),
        ((503, b""), "is busy: it answers 503, too many scrapes at the same time (web.max_requests)\n"),
        ((429, b""), "is busy: it answers 429, asked more often than its rate limit allows\n"),
        ((401, b""), "requires a password: name a --login-file, or use --source own"),
        ((200, b"<html>"), "is not a kvm-exit-exporter of this version: not JSON"),
        ((200, b"{}"), "is not a kvm-exit-exporter of this version: version is missing"),
        ((200, b'{"version": 99}'), "is not a kvm-exit-exporter of this version: document version 99, expected 1"),
        ((200, b'{"\\u001b[2J": 1}'), "version is missing"),
        (reading(0), "counts nothing: it waits for KVM, or its log says why"),
    ],
)
def test_an_answer_without_a_reading_is_reported_in_one_line(
    fake: FakeExporter, answer: Reading | tuple[int, bytes], problem: str
) -> None:
    fake.answer = lambda _: answer
    said = read(fake, "0.1")
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (1, "", 1)
    assert problem in said.stderr
    assert said.stderr.startswith(SAID)


def test_a_refused_connection_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    said = run("top", "--source", "exporter", "--url", url, "1")
    assert (said.returncode, said.stderr) == (1, f"{SAID}no answer from {url}: Connection refused\n")


def test_an_answer_that_is_not_http_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x1b[2J SSH-2.0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        said = run("top", "--source", "exporter", "--url", url, "1")
    assert said.returncode == 1
    assert said.stderr == f"{SAID}no answer from {url}: \\x1b[2J SSH-2.0\\r\\n\n"


@pytest.mark.parametrize(
    "arguments",
    [
        *(("0",), ("-1",), ("nan",), ("inf",), ("1e10",), ("5s",), ("1", "2"), ("-i", "0"), ("--limit", "0")),
        *(("-p", "x"), ("-t", "1,"), ("--vcpu", "-1"), ("--reason", "a,,b"), ("--sort", "no"), ("--source", "no")),
        *(("--json", "--csv"), ("--limit", "9" * 5000), ("-p", "9" * 5000)),
    ],
)
def test_wrong_arguments_are_usage_errors(arguments: tuple[str, ...]) -> None:
    said = refused("top", *arguments)
    assert said.startswith("usage: kvm-exit-exporter")
    assert "Traceback" not in said


def test_the_help_of_top_has_examples() -> None:
    said = run("top", "--help").stdout
    assert "examples:\n  top   " in said
    assert "a bucket is 19 % wide" in said


def test_a_closed_pipe_is_no_error(fake: FakeExporter) -> None:
    command = [sys.executable, "-m", "exporter", "top", "--source", "exporter", "--url", fake.url, "-i", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read().decode()
    assert (process.wait(30), said) == (0, f"{SAID}reading the exporter at {fake.url} ({PRESENT_USER})\n")


def test_top_exits_with_status_1_if_its_output_cannot_be_written(fake: FakeExporter) -> None:
    command = [sys.executable, "-m", "exporter", "top", "--source", "exporter", "--url", fake.url, "0.1"]
    with open("/dev/full", "w") as full:
        said = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert said.returncode == 1
    assert said.stderr.splitlines()[-1] == f"{SAID}cannot print: No space left on device"
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    said = subprocess.run(shell, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (said.returncode, said.stderr) == (1, f"{SAID}standard output is closed\n")


def test_without_stderr_stdout_has_only_the_numbers(fake: FakeExporter) -> None:
    command = [sys.executable, "-m", "exporter", "top", "--source", "exporter", "--url", fake.url, "0.1", "--json"]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    said = subprocess.run(shell, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert said.returncode == 0
    assert json.loads(said.stdout)["counters"] == {"dropped_no_cell": 17}


def test_the_daemon_imports_no_module_of_the_terminal() -> None:
    # The module curses is not checked, because tornado.log imports it if it is installed.
    code = "import sys, exporter.service.daemon, exporter.service.process; "
    code += "print([name for name in sys.modules if name.startswith('exporter.terminal')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_curses_top_prints_the_table(fake: FakeExporter, tmp_path: Path) -> None:
    """Some distributions have a separate package for curses. test_live.py has the same test on a terminal."""
    (tmp_path / "curses.py").write_text("raise ImportError('hidden')\n")
    said = run("top", "--source", "exporter", "--url", fake.url, "0.1", env={"PYTHONPATH": str(tmp_path)})
    assert (said.returncode, said.stdout.count("\n")) == (0, 3)
