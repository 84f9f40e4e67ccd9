"""Any text in a log line is read back unchanged. No value and no broken stream raises an exception."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.common import logs

LOGGER = logging.getLogger("exporter.test")
ANYTHING = st.text(st.characters())  # the characters include lone surrogates and control characters
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in {"ts", "level", "msg", "err", "stack", "logger"}
)


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def read_logfmt(line: str) -> dict[str, str]:
    pair = re.compile(r'([^ ="]+)=("(?:[^"\\]|\\.)*"|[^ ="]*)(?: |$)')
    fields: dict[str, str] = {}
    at = 0
    while at < len(line):
        match = pair.match(line, at)
        assert match, line[at:]
        assert match[1] not in fields
        fields[match[1]] = json.loads(match[2]) if match[2].startswith('"') else match[2]
        at = match.end()
    return fields


def logged(form: str, level: str = "info", encoding: str = "utf-8") -> Any:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    logs.setup(level, form, stream)
    return stream


def lines(stream: io.TextIOWrapper) -> list[str]:
    stream.seek(0)
    text = stream.read()
    assert text == "" or text.endswith("\n")
    # splitlines() splits at U+0085 and U+2028 too, so a log line must not contain these characters
    split = text.splitlines()
    assert "\n".join(split) + "\n" == (text or "\n")
    assert all(line.isprintable() for line in split)
    return split


def line(stream: io.TextIOWrapper) -> str:
    (only,) = lines(stream)
    return only


def shown(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 1024 else text[:1023] + "…"


def record(msg: str, **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": msg, "created": 1767323045.678, "levelno": logging.INFO, "fields": fields})


def test_a_line_in_logfmt_has_all_fields() -> None:
    stream = logged("logfmt")
    LOGGER.handle(record("listening", address="[::]:9939", vms=3, up=True, took=0.5, name=None, empty="", q='a "b"'))
    assert line(stream) == (
        "ts=2026-01-02T03:04:05.678Z level=info msg=listening address=[::]:9939 vms=3 up=true took=0.5 "
        'name=null empty="" q="a \\"b\\""'
    )


def test_a_line_in_json_has_all_fields() -> None:
    stream = logged("json")
    LOGGER.handle(record("now listening", address="[::]:9939", vms=3, up=True, took=0.5, name=None, empty=""))
    assert line(stream) == (
        '{"ts": "2026-01-02T03:04:05.678Z", "level": "info", "msg": "now listening", "address": "[::]:9939", '
        '"vms": 3, "up": true, "took": 0.5, "name": null, "empty": ""}'
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('a"b', '"a\\"b"'),
        ("a\\b", "a\\b"),
        ("a\\ b", '"a\\\\ b"'),
        ("a\nb", '"a\\nb"'),
        ("\x1b[31m\x7f\x85\u2028", '"\\u001b[31m\\u007f\\u0085\\u2028"'),
        ("größe", "größe"),
        ("虚拟机 1", '"虚拟机 1"'),
        ("\U000e0001", '"\\udb40\\udc01"'),
        ("\udcff", "\\udcff"),
    ],
)
def test_logfmt_quotes_and_escapes_values(value: str, written: str) -> None:
    stream = logged("logfmt")
    LOGGER.handle(record("x", v=value))
    assert line(stream) == f"ts=2026-01-02T03:04:05.678Z level=info msg=x v={written}"


@given(
    msg=ANYTHING,
    fields=st.dictionaries(NAMES, ANYTHING, max_size=4),
    level=st.sampled_from(list(logs.LEVELS)),
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_every_text_is_read_back(form: str, encoding: str, msg: str, fields: dict[str, str], level: str) -> None:
    stream = logged(form, "debug", encoding)
    logs.event(LOGGER, level, msg, **fields)
    only = line(stream)
    read = read_logfmt(only) if form == "logfmt" else json.loads(only)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", read["ts"])
    del read["ts"]
    wanted = {"level": level, "msg": msg, **fields}
    assert list(read.items()) == [(name, shown(text)) for name, text in wanted.items()]


@given(
    fields=st.dictionaries(
        NAMES,
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(-1e300, 1e300),
    )
)
def test_json_keeps_numbers(fields: dict[str, object]) -> None:
    stream = logged("json")
    logs.event(LOGGER, "info", "x", **fields)
    read = json.loads(line(stream))
    assert {name: read[name] for name in fields} == fields


def test_values_that_json_cannot_hold_become_text() -> None:
    stream = logged("json")
    values = {"nan": float("nan"), "inf": float("inf"), "path": Path("/x y"), "list": [1, "a"], "big": 2**64}
    logs.event(LOGGER, "info", "x", **values, cause=OSError(2, "No such file"), plain=KeyError())
    read = json.loads(line(stream))
    assert [read[name] for name in (*values, "cause", "plain")] == [
        "nan", "inf", "/x y", "[1, 'a']", "18446744073709551616",
        "FileNotFoundError: [Errno 2] No such file", "KeyError"
    ]  # fmt: skip


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_a_line_is_logged_even_if_str_of_a_value_raises_an_exception(form: str) -> None:
    stream = logged(form)
    logs.event(LOGGER, "info", "x", a=Unprintable(), b=1)
    read = read_logfmt(line(stream)) if form == "logfmt" else json.loads(line(stream))
    assert (read["a"], str(read["b"])) == ("<Unprintable: RuntimeError>", "1")


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_values_are_cut_after_1024_characters(form: str) -> None:
    stream = logged(form)
    logs.event(LOGGER, "info", "m" * 65536, exact="x" * 1024, over="x" * 1025, wide="\udcff" * 65536)
    read = read_logfmt(line(stream)) if form == "logfmt" else json.loads(line(stream))
    assert read["msg"] == "m" * 1023 + "…"
    assert read["exact"] == "x" * 1024
    assert read["over"] == "x" * 1023 + "…"
    assert read["wide"] == ("\\udcff" * 171)[:1023] + "…"


def test_fields_with_unusable_or_equal_names_are_renamed() -> None:
    stream = logged("logfmt")
    fields = {
        "ts": 1,
        "level": 2,
        "msg": 3,
        "a b": 4,
        "a=b": 5,
        "": 6,
        "ü": 7,
        'x"\n': 8,
        "k" * 65: 9,
        10: 10,
    }
    LOGGER.info("x", extra={"fields": fields})
    read = read_logfmt(line(stream))
    assert list(read.items())[1:] == [
        ("level", "info"), ("msg", "x"), ("ts_", "1"), ("level_", "2"), ("msg_", "3"), ("a_b", "4"),
        ("a_b_", "5"), ("_", "6"), ("__", "7"), ("x__", "8"), ("k" * 64, "9"), ("10", "10"),
    ]  # fmt: skip


def test_fields_that_are_not_a_mapping_are_left_out() -> None:
    stream = logged("logfmt")
    LOGGER.info("x", extra={"fields": "a=b"})
    assert line(stream).endswith(" level=info msg=x")


def test_the_arguments_of_standard_logging_calls_are_inserted_into_the_message() -> None:
    stream = logged("logfmt")
    LOGGER.info("%s of %d", "one", 2)
    LOGGER.info("%d", "not a number")
    LOGGER.info("100%")
    assert [read_logfmt(each)["msg"] for each in lines(stream)] == ["one of 2", "%d", "100%"]


def test_only_lines_of_the_chosen_level_and_above_are_written() -> None:
    stream = logged("logfmt", "warn")
    for level in logs.LEVELS:
        logs.event(LOGGER, level, level)
    LOGGER.critical("critical")
    LOGGER.log(35, "between")
    read = [read_logfmt(each) for each in lines(stream)]
    assert [(each["level"], each["msg"]) for each in read] == [
        ("warn", "warn"), ("error", "error"), ("error", "critical"), ("warn", "between")
    ]  # fmt: skip


def fail(text: str) -> ValueError:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


@pytest.mark.parametrize("level", ["debug", "info"])
def test_an_exception_is_one_field_and_at_level_debug_a_stack_field_is_added(level: str) -> None:
    stream = logged("json", level)
    logs.event(LOGGER, "error", "failed", err=fail("a\nb"), pid=7)
    try:
        raise fail("again")
    except ValueError:
        LOGGER.exception("failed")
    first, second = (json.loads(each) for each in lines(stream))
    assert (first["err"], first["pid"], second["err"]) == ("ValueError: a\nb", 7, "ValueError: again")
    assert ("stack" in first, "stack" in second) == (level == "debug", level == "debug")
    if level == "debug":
        assert first["stack"].startswith("Traceback (most recent call last):\n")
        assert first["stack"].endswith("raise ValueError(text)\nValueError: a\nb\n")


def test_an_err_field_with_text_is_an_ordinary_field() -> None:
    stream = logged("logfmt")
    logs.event(LOGGER, "warn", "x", err="Broken pipe")
    assert line(stream).endswith(' level=warn msg=x err="Broken pipe"')


def test_exc_info_without_an_exception_adds_no_field() -> None:
    stream = logged("logfmt", "debug")
    LOGGER.error("x", exc_info=True)
    assert line(stream).endswith(" level=error msg=x")


def test_a_long_exception_text_leaves_room_for_the_stack() -> None:
    stream = logged("json", "debug")
    logs.event(LOGGER, "error", "x", err=fail("y" * 65536))
    read = json.loads(line(stream))
    assert read["err"] == "ValueError: " + "y" * 1011 + "…"
    assert "in fail\n" in read["stack"]
    assert len(read["stack"]) < 4096


def test_a_long_stack_keeps_its_end() -> None:
    def chain(depth: int) -> None:
        try:
            raise ValueError("z" * 1000)
        except ValueError:
            if depth:
                chain(depth - 1)
            raise

    stream = logged("json", "debug")
    try:
        chain(30)
    except ValueError as error:
        logs.event(LOGGER, "error", "x", err=error)
    stack = json.loads(line(stream))["stack"]
    assert (len(stack), stack[0], stack[-1001:]) == (16384, "…", "z" * 1000 + "\n")


class Broken(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, _: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space"), ValueError("closed")])
def test_a_broken_stream_raises_no_exception(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    logs.setup("info", "logfmt", Broken(error))
    logs.event(LOGGER, "error", "x")
    assert capfd.readouterr() == ("", "")


def test_a_closed_pipe_and_a_full_device_raise_no_exception(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    broken: list[TextIO] = [os.fdopen(writer, "w"), open("/dev/full", "w"), io.StringIO()]  # noqa: SIM115
    broken[2].close()
    for stream in broken:
        logs.setup("info", "json", stream)
        for _ in range(3000):
            logs.event(LOGGER, "error", "x")
    logging.shutdown()
    assert capfd.readouterr() == ("", "")
    for stream in broken[:2]:
        with pytest.raises(OSError, match=r"Broken pipe|No space left"):
            stream.close()


def test_a_process_without_stderr_can_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    logs.setup("info", "logfmt")
    logs.event(LOGGER, "error", "x")


def test_stderr_is_the_default_and_a_second_setup_replaces_the_first_setup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.setup("error", "json")
    logs.setup("info", "logfmt")
    before = datetime.now().astimezone()
    logs.event(LOGGER, "info", "x")
    (only,) = capsys.readouterr().err.splitlines()
    at = datetime.fromisoformat(read_logfmt(only)["ts"].replace("Z", "+00:00"))
    assert -1 < (at - before).total_seconds() < 60


@pytest.mark.parametrize(("level", "form"), [("warning", "logfmt"), ("info", "xml"), ("INFO", "json"), ("", "")])
def test_unknown_levels_and_formats_raise_value_error(level: str, form: str) -> None:
    with pytest.raises(ValueError, match=r"^no such log level or format: "):
        logs.setup(level, form)


def test_a_stream_with_an_unknown_encoding_gets_only_ascii() -> None:
    class Odd(io.StringIO):
        encoding = "martian"

    stream = Odd()
    logs.setup("info", "logfmt", stream)
    logs.event(LOGGER, "info", "größe")
    assert stream.getvalue().endswith(' msg="gr\\u00f6\\u00dfe"\n')
