"""The live view on a real pseudo-terminal, as a terminal emulator shows it."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pyte")

from exporter.readings.reading import USERSPACE, InProgress, Reading
from exporter.terminal.source import ExporterSource
from tests.support.fake_exporter import FakeExporter
from tests.support.pty_screen import Terminal
from tests.support.readings import SECOND, counted, reading, thread

HOSTILE = "\x1b[31mdb\n\x07\u202e"
ESCAPED = "\\x1b[31mdb\\n\\x07\\u202e"


def at(n: int) -> Reading:
    """Return the reading of second n.

    The count of each reason grows by a fixed number each second, and each of its exits takes a fixed time.
    """
    ms, us = 10**6, 1000
    web = thread(
        4201,
        4211,
        counted("IRQ", "interrupt", 101 * n, {52: 101 * n}, 101 * n * ms),
        counted("EC_WFx", "idle", 7 * n, {80: 7 * n}, 7 * n * 100 * ms),
        counted("KVM_EXIT_MMIO", "mmio", 13 * n, {50: 13 * n}, 13 * n * us, kind=USERSPACE),
        guest_ns=n * SECOND // 10,
    )
    second = thread(
        4201,
        4212,
        counted("EC_DABT_LOW", "mmio", 997 * n, {30: 990 * n, 60: 7 * n}, 997 * n * 50 * us),
        counted("IRQ", "interrupt", 3 * n, {52: 3 * n}, 3 * n * ms),
        vcpu="1",
    )
    other = thread(
        4301,
        4311,
        counted("EC_HVC64", "hypercall", 5, {40: 4}, 4 * us),
        vm=HOSTILE,
        in_progress=InProgress("EC_HVC64", "hypercall", n * SECOND // 2),
    )
    return reading(n + 1, web, second, other, since_ns=1)


Start = Callable[..., Terminal]


@pytest.fixture
def fake() -> Iterator[FakeExporter]:
    fake = FakeExporter(at)
    yield fake
    fake.close()


@pytest.fixture
def start(fake: FakeExporter) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(*options: str, **more: object) -> Terminal:
            arguments = ["top", "--source", "exporter", "--url", fake.url, "-i", "0.2", *options]
            terminal = Terminal(*arguments, **more)  # type: ignore[arg-type]
            stack.callback(terminal.close)
            return terminal

        yield begin


def body(lines: list[str]) -> list[str]:
    """Return the rows of the table."""
    return [line for line in lines[4:-1] if line]


def reasons(lines: list[str]) -> list[str]:
    return re.findall(r"\b(IRQ|EC_\w+|KVM_\w+)\b", "\n".join(body(lines)))


ROWS = [
    "\\x1b[31mdb    0 EC_HVC64            0  50.0      -      -      -      -",
    "web-1         0 IRQ               101  10.1 1.00ms  977us  977us  977us    █",
    "web-1         1 EC_DABT_LOW       997   5.0 50.0us 21.6us 21.6us 3.91ms  █ ▁",
    "web-1         1 IRQ                 3   0.3 1.00ms  977us  977us  977us    █",
    "web-1         0 EC_WFx              7  70.0  100ms  125ms  125ms  125ms      █",
]
TIME_ORDER = ["EC_HVC64", "IRQ", "EC_DABT_LOW", "IRQ", "EC_WFx"]


def shows(*wanted: str) -> Callable[[list[str]], bool]:
    return lambda lines: reasons(lines) == list(wanted)


def test_the_view_fits_80_columns_and_the_table_follows(start: Start) -> None:
    top = start()
    lines = top.wait(shows(*TIME_ORDER))
    assert lines[0].startswith("top  ")
    assert "the exporter at http://127.0.0.1:" in lines[0]
    assert lines[1] == "3 vCPUs  1.11k exits/s  guest 3.3 %  lost 21.8 %  idle 23.3 %"
    assert re.fullmatch(r"exits of the last \d+\.0 s by vCPU, sorted by time, 5 rows", lines[2])
    assert lines[3] == "VM         VCPU REASON         RATE/s TIME%    AVG    P50    P99    MAX 1us..16s"
    assert body(lines) == ROWS
    assert lines[-1].startswith("q quit  h help  s sort  g group")
    dim = top.dim()
    assert [number for number in range(4, 9) if dim[number]] == [8]
    top.send("q")
    status, said, after = top.end()
    assert status == 0
    assert said.startswith("kvm-exit-exporter top: reading the exporter at http://127.0.0.1:")
    assert after.startswith("TGID     TID      COMM             KVM_EXIT_REASON               COUNT AVG_TIME (ns)\n")
    assert [line.split()[4] for line in after.splitlines()[1:]] == ["IRQ", "EC_DABT_LOW", "IRQ", "EC_WFx"]
    assert top.restored()
    assert b"\x1b[31mdb" not in top.raw


def test_the_view_at_200_columns_has_more_columns(start: Start) -> None:
    top = start(columns=200, height=50)
    lines = top.wait(shows(*TIME_ORDER))
    assert lines[3].split() == [
        *("VM", "PID", "VCPU", "TID", "REASON", "CLASS", "COUNT", "RATE/s", "TIME%", "AVG", "P50", "P99", "MAX"),
        "1us..................16s",
    ]
    assert body(lines)[0].startswith(ESCAPED)
    assert lines[-1].startswith("q quit")
    assert len(lines) == 50


def test_the_view_follows_the_size_of_the_terminal(start: Start) -> None:
    top = start()
    top.wait(shows(*TIME_ORDER))
    top.resize(200, 50)
    top.wait(lambda lines: "CLASS" in lines[3] and lines[-1].startswith("q quit") and reasons(lines) == TIME_ORDER)
    top.resize(40, 7)
    lines = top.wait(lambda lines: len(body(lines)) == 2 and lines[-1].startswith("q quit"))
    assert lines[3].split() == ["VM", "REASON", "RATE/s", "TIME%"]
    assert all(len(line) <= 40 for line in lines)
    for columns, height in ((1, 1), (5, 3), (300, 80), (80, 24)):
        top.resize(columns, height)
        top.read(0.3)
        assert top.process.poll() is None
    top.wait(shows(*TIME_ORDER))


def test_each_key_has_its_effect(start: Start) -> None:
    top = start()
    top.wait(shows(*TIME_ORDER))
    for sort, order in (
        ("count", ["EC_DABT_LOW", "IRQ", "IRQ", "EC_HVC64", "EC_WFx"]),
        ("avg", ["IRQ", "IRQ", "EC_DABT_LOW", "EC_HVC64", "EC_WFx"]),
        ("p50", ["IRQ", "IRQ", "EC_DABT_LOW", "EC_HVC64", "EC_WFx"]),
        ("p99", ["IRQ", "IRQ", "EC_DABT_LOW", "EC_HVC64", "EC_WFx"]),
        ("max", ["EC_DABT_LOW", "IRQ", "IRQ", "EC_HVC64", "EC_WFx"]),
        *((part, ["EC_HVC64", "IRQ", "EC_DABT_LOW", "IRQ", "EC_WFx"]) for part in ("wait", "sleep", "vmm")),
        ("vm", ["EC_HVC64", "IRQ", "EC_DABT_LOW", "IRQ", "EC_WFx"]),
        ("reason", ["EC_DABT_LOW", "EC_HVC64", "IRQ", "IRQ", "EC_WFx"]),
        ("time", TIME_ORDER),
    ):
        top.send("s")
        top.wait(lambda lines: f"sorted by {sort}," in lines[2] and reasons(lines) == order, sort)
    top.send("S")
    top.wait(lambda lines: "sorted by reason," in lines[2])
    top.send("s")
    top.send("r")
    top.wait(
        lambda lines: (
            "by time (reversed)" in lines[2] and reasons(lines) == ["IRQ", "EC_DABT_LOW", "IRQ", "EC_HVC64", "EC_WFx"]
        )
    )
    top.send("r")
    top.wait(shows(*TIME_ORDER))
    top.send("i")
    top.wait(lambda lines: "idle hidden" in lines[2] and reasons(lines) == TIME_ORDER[:-1])
    top.send("i")
    top.wait(shows(*TIME_ORDER))
    top.send("g")
    lines = top.wait(lambda lines: "by VM" in lines[2] and len(body(lines)) == 4)
    assert lines[3].split()[:2] == ["VM", "REASON"]
    assert re.search(r"web-1 +IRQ +104 +5\.2 ", "\n".join(lines))
    top.send("g")
    lines = top.wait(lambda lines: "by reason" in lines[2] and len(body(lines)) == 4)
    assert lines[3].split()[0] == "REASON"
    assert re.search(r"(?m)^IRQ +\d+ +104 +3\.5 ", "\n".join(lines))
    top.send("g")
    top.wait(shows(*TIME_ORDER))
    for key, word in (("2", "by VM"), ("3", "by reason"), ("1", "by vCPU")):
        top.send(key)
        top.wait(lambda lines: word in lines[2])
    top.send("u")
    lines = top.wait(lambda lines: lines[2].startswith("returns to the VMM"))
    assert reasons(lines) == ["KVM_EXIT_MMIO"]
    top.send("u")
    top.send("t")
    top.wait(lambda lines: lines[2].startswith("exits of all "))
    top.send("t")
    top.wait(lambda lines: lines[2].startswith("exits of the last "))
    for key in "h?":
        top.send(key)
        lines = top.wait(lambda lines: lines[0] == "Keys")
        assert lines[-1].startswith("q quit")
        assert any("pause: the screen stands still" in line for line in lines)
        assert any("a bucket is 19 % wide" in line for line in lines)
        top.send(key)
        top.wait(shows(*TIME_ORDER))
    top.send("h")
    top.wait(lambda lines: lines[0] == "Keys")
    top.send("xZ\x1b\xe4")  # unknown keys: the first one closes the help, and the others do nothing
    top.wait(shows(*TIME_ORDER))
    top.send("Q")
    assert top.end()[0] == 0


def test_keys_scroll_the_rows(start: Start, fake: FakeExporter) -> None:
    threads = [(100 + n, 997 - n) for n in range(37)]
    fake.answer = lambda n: reading(
        n + 1,
        *(thread(1, tid, counted("IRQ", "interrupt", rate * n), vcpu=str(tid)) for tid, rate in threads),
        since_ns=1,
    )
    top = start("--sort", "count")

    def first(lines: list[str]) -> str:
        return lines[4].split()[1] if len(lines[4].split()) > 1 else ""

    top.wait(lambda lines: first(lines) == "100" and len(body(lines)) == 19)
    down, up, next_page, page_up, home, end = "\x1bOB", "\x1bOA", "\x1b[6~", "\x1b[5~", "\x1bOH", "\x1bOF"
    for key, expected in (
        *((down, "101"), ("j", "102"), (up, "101"), ("k", "100"), ("k", "100")),
        *((next_page, "118"), (next_page, "118"), (page_up, "100"), (end, "118"), (home, "100")),
    ):
        top.send(key)
        top.wait(lambda lines: first(lines) == expected, f"{key!r} {expected}")


def test_pause_freezes_the_rows_while_readings_go_on(start: Start, fake: FakeExporter) -> None:
    """The rows do not change during a pause. Readings continue, so that top misses no vCPU that ends."""

    def slower(n: int) -> Reading:
        return replace(at(n), taken_ns=at(2 * n).taken_ns)

    assert ExporterSource.poll_seconds == 5.0
    sooner = "from exporter.terminal.source import ExporterSource; ExporterSource.poll_seconds = 0.3"
    top = start(changed=sooner)
    for key in ("p", " "):
        top.wait(lambda lines: body(lines) == ROWS)
        top.send(key)
        top.wait(lambda lines: "PAUSED" in lines[0])
        fake.answer, answered = slower, fake.asked
        top.wait(lambda _: fake.asked > answered)
        top.send("s")  # keys still work during a pause
        top.wait(lambda lines: "sorted by count" in lines[2])
        top.send("S")
        top.wait(lambda lines: "sorted by time" in lines[2] and body(lines) == ROWS and "PAUSED" in lines[0])
        top.send(key)
        top.wait(lambda lines: "PAUSED" not in lines[0] and body(lines) != ROWS)
        fake.answer = at
    top.send("q")
    status, _, after = top.end()
    assert status == 0
    assert re.search(rf"IRQ +{101 * (fake.asked - 1)} ", after)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_view_and_prints_the_table(start: Start, fake: FakeExporter, number: signal.Signals) -> None:
    top = start()
    top.wait(shows(*TIME_ORDER))
    if number == signal.SIGINT:
        top.send("\x03")  # the terminal sends SIGINT
    else:
        top.signal(number)
    status, _, after = top.end()
    assert status == 0
    assert re.search(rf"IRQ +{101 * (fake.asked - 1)} +1000000\n", after)
    assert top.restored()


def test_the_duration_ends_the_view(start: Start) -> None:
    top = start("1.3")
    status, _, after = top.end()
    assert status == 0
    assert after.startswith("TGID")


def test_filters_and_limit_apply_to_the_view_and_the_table(start: Start) -> None:
    top = start("--vm", "web-1", "--vcpu", "0,1", "--no-idle", "--limit", "2", "--sort", "count")
    lines = top.wait(shows("EC_DABT_LOW", "IRQ"))
    assert "idle hidden" in lines[2]
    top.send("i")
    top.wait(lambda lines: "idle hidden" not in lines[2])
    top.send("q")
    after = top.end()[2]
    assert [line.split()[4] for line in after.splitlines()[1:]] == ["EC_DABT_LOW", "IRQ"]


def test_the_rows_stay_while_the_exporter_fails(start: Start, fake: FakeExporter) -> None:
    top = start()
    top.wait(shows(*TIME_ORDER))
    fake.answer = lambda _: (503, b"")
    lines = top.wait(lambda lines: "answers 503" in lines[2])
    assert reasons(lines) == TIME_ORDER
    fake.answer = at
    top.wait(lambda lines: lines[2].startswith("exits of the last"))
    fake.answer = lambda _: (503, b"")
    top.send("q")
    status, said, after = top.end()
    assert status == 1
    assert "the printed numbers end with the last reading" in said
    assert after.startswith("TGID")


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_keys_work_while_the_exporter_hangs(start: Start, fake: FakeExporter, key: str) -> None:
    """The exporter accepts the connection and does not answer.

    The header says this, and q does not wait for the answer.
    """
    top = start()
    top.wait(shows(*TIME_ORDER))
    fake.answer = fake.hang
    lines = top.wait(lambda lines: re.match(r"no answer for \d+ s  exits of the last ", lines[2]))
    assert reasons(lines) == TIME_ORDER
    top.send("s")
    top.wait(lambda lines: "sorted by count" in lines[2])
    pressed = time.monotonic()
    top.send(key)
    status, said, after = top.end()
    assert time.monotonic() - pressed < 5  # otherwise, top waits 10 s for an answer
    assert status == 1
    assert re.search(r"the printed numbers end with the last reading: no answer for \d+\.\d s\n", said)
    assert re.search(rf"IRQ +{101 * (fake.asked - 1)} +1000000\n", after)


def test_at_its_end_top_waits_only_a_moment_for_an_exporter_that_hangs(start: Start, fake: FakeExporter) -> None:
    """The exporter has answered all earlier readings, so top waits a moment for the last one."""
    top = start("-i", "60")
    top.wait(shows(*TIME_ORDER))
    fake.answer = fake.hang
    pressed = time.monotonic()
    top.send("q")
    status, said, _ = top.end()
    assert time.monotonic() - pressed < 5
    assert (status, "no answer for " in said) == (1, True)


@pytest.mark.parametrize("ignored", ["", "trap '' HUP"])
def test_a_closed_terminal_ends_the_program(start: Start, ignored: str) -> None:
    """top ends even if it was started with SIGHUP ignored."""
    top = start(before=ignored)
    top.wait(shows(*TIME_ORDER))
    top.hang_up()
    assert top.process.wait(20) == 1
    assert top.process.stderr
    assert top.process.stderr.read().endswith("cannot print: Input/output error\n")


def test_without_utf8_the_screen_is_ascii(start: Start) -> None:
    """Bars are drawn with ASCII characters. Other letters in names are escaped."""
    top = start(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    top.wait(shows(*TIME_ORDER))
    assert all(byte < 0x80 for byte in top.raw)
    assert body(top.lines())[1].endswith("#")


@pytest.mark.parametrize(
    ("term", "why"),
    [
        ("dumb", "the terminal type 'dumb' cannot place the cursor (TERM)"),
        ("no-such-terminal", "the terminal type 'no-such-terminal' is unknown (TERM)"),
        ("", "the terminal type '' is unknown (TERM)"),
    ],
)
def test_a_terminal_that_cannot_place_the_cursor_gets_plain_tables(start: Start, term: str, why: str) -> None:
    top = start("0.5", TERM=term)
    status, said, _ = top.end()
    assert status == 0
    assert said.splitlines()[0] == f"kvm-exit-exporter top: no live view: {why}"
    assert b"\x1b" not in top.raw
    assert b"KVM_EXIT_REASON" in top.raw


def test_the_flag_plain_prints_tables_on_a_terminal(start: Start) -> None:
    top = start("--plain", "0.5")
    assert top.end()[0] == 0
    assert b"\x1b" not in top.raw
    assert top.raw.count(b"KVM_EXIT_REASON") == 3


def test_without_curses_a_terminal_gets_plain_tables(start: Start, tmp_path: Path) -> None:
    (tmp_path / "curses.py").write_text("raise ImportError('hidden')\n")
    top = start("0.5", PYTHONPATH=str(tmp_path))
    status, said, _ = top.end()
    assert status == 0
    assert said.splitlines()[0] == "kvm-exit-exporter top: no live view: this Python has no module curses (hidden)"
