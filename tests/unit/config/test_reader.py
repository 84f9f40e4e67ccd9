"""Errors in a configuration file are reported quickly and all at once. Each message has the line and the key."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.load import load, parse
from exporter.config.options import Config, ConfigError
from exporter.config.yaml_file import MAX_BYTES

ADDRESS = "host:port, :port, [ipv6]:port or unix:/path, with port 1 to 65535 (0: any free one)"
ALL_KEYS = (
    "web.listen_address, web.telemetry_path, web.gzip, web.config_file, web.max_requests, web.host_names, "
    "web.enable_lifecycle, collect_interval, linger, level.counters, level.histograms, level.time, "
    "reasons.allow, reasons.deny, histogram.native, histogram.classic.factor, histogram.classic.min, "
    "histogram.classic.max, histogram.classic.in_protobuf, limits.vcpus, limits.cells, "
    "bpf_stats, kernel_headers, lock_file, run_as, log.level, log.format"
)
DURATION = "allowed is a duration from 0s to 24h"
NULL = "is null (leave the key out for its default,"
VCPUS = "allowed is a whole number from 1 to 65536"
ENOUGH = "allowed is at least one cell for each vCPU"
LOCK = 'allowed is "" (none) or an absolute path'
HEADERS = "allowed is builtin, system or an absolute path"
REASON = "a reason as it stands on /metrics, such as EC_WFx or HLT"
FACTORS = "allowed is one of 2, 4, 16"
LEVELS = "allowed is one of debug, info, warn, error"


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        parse(text, "c.yaml")
    assert str(error.value) == "\n".join(error.value.problems)
    assert all(problem.isprintable() for problem in error.value.problems)
    return error.value.problems


def test_all_problems_are_reported_at_once_in_the_order_of_the_lines() -> None:
    text = """\
web:
  listen_address:
    - ":9939"
    - localhost
    - 9939
    - ":9939"
  telemetry_pth: /x
  telemetry_path: metrics
collect_interval: 15
linger: 25h
limits: {vcpus: yes, cells: "4"}
limits:
  vcpus: 0
bpf_stats: 1
kernel_headers: linux
lock_file: /run/
log_file: /x
log: ~
"""
    assert problems(text) == (
        f'c.yaml:4: web.listen_address[1]: "localhost" has no port; allowed is {ADDRESS}',
        f"c.yaml:5: web.listen_address[2]: 9939 is a whole number; allowed is {ADDRESS}",
        f'c.yaml:6: web.listen_address[3]: ":9939" is in the list already; allowed is {ADDRESS}',
        "c.yaml:7: web.telemetry_pth: unknown key, did you mean web.telemetry_path?",
        'c.yaml:8: web.telemetry_path: "metrics" is not a valid path; '
        "allowed is a path such as /metrics, without query or white space",
        "c.yaml:9: collect_interval: 15 has no unit (fifteen seconds are 15s); allowed is a duration from 1s to 1h",
        f'c.yaml:10: linger: "25h" is out of range; {DURATION}',
        f"c.yaml:11: limits.vcpus: yes is a boolean; {VCPUS}",
        'c.yaml:11: limits.cells: "4" is a string; allowed is a whole number from 1 to 1048576',
        "c.yaml:12: limits: given again, first on line 11; allowed is once",
        f"c.yaml:13: limits.vcpus: 0 is out of range; {VCPUS}",
        "c.yaml:14: bpf_stats: 1 is a whole number; allowed is true or false",
        f'c.yaml:15: kernel_headers: "linux" is not an absolute path; {HEADERS}',
        f'c.yaml:16: lock_file: "/run/" is a directory; {LOCK}',
        "c.yaml:17: log_file: unknown key, did you mean lock_file?",
        "c.yaml:18: log: is null; allowed is a mapping with level, format",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("linger: 5m\nlinger: 5m", "2: linger: given again, first on line 1; allowed is once"),
        ("x: 1", f"1: x: unknown key; allowed are {ALL_KEYS}"),
        ("limits: {vcpu: 1}", "1: limits.vcpu: unknown key, did you mean limits.vcpus?"),
        ("limit: {vcpus: 1}", "1: limit: unknown key, did you mean limits?"),
        ("telemetry_path: /x", "1: telemetry_path: unknown key, did you mean web.telemetry_path?"),
        (
            "web.telemetry_path: /x",
            "1: web.telemetry_path: unknown key; write it nested, as web: {telemetry_path: ...}",
        ),
        ("<<: {linger: 5m}", f"1: <<: unknown key; allowed are {ALL_KEYS}"),
        ("[a]: 1", f"1: (seq): unknown key; allowed are {ALL_KEYS}"),
        ('"a\\nb\\e[0m": 1', f"1: a\\nb\\x1b[0m: unknown key; allowed are {ALL_KEYS}"),
        ("- 1", f"1: the whole file: is a list; allowed is a mapping with {ALL_KEYS}"),
        ("linger", f'1: the whole file: "linger" is a string; allowed is a mapping with {ALL_KEYS}'),
        ("null", f"1: the whole file: is null; allowed is a mapping with {ALL_KEYS}"),
        ("limits: 5", "1: limits: 5 is a whole number; allowed is a mapping with vcpus, cells"),
        ("limits: []", "1: limits: is a list; allowed is a mapping with vcpus, cells"),
        ("limits:\nlinger: 1s", "1: limits: is null; allowed is a mapping with vcpus, cells"),
        ("linger:", f"1: linger: {NULL} 5m); {DURATION}"),
        ("linger: ~", f"1: linger: {NULL} 5m); {DURATION}"),
        ("linger: {}", f"1: linger: is a mapping; {DURATION}"),
        ("linger: 1:30", f"1: linger: 1:30 is not a duration; {DURATION}"),
        ("linger: 2001-01-01", f"1: linger: 2001-01-01 is a date; {DURATION}"),
        ("linger: .inf", f"1: linger: .inf is not a duration; {DURATION}"),
        (
            "collect_interval: 999ms",
            '1: collect_interval: "999ms" is out of range; allowed is a duration from 1s to 1h',
        ),
        (
            "collect_interval: 1h1us",
            '1: collect_interval: "1h1us" is out of range; allowed is a duration from 1s to 1h',
        ),
        ("bpf_stats: 'on'", '1: bpf_stats: "on" is a string; allowed is true or false'),
        ("log: {level: no}", f"1: log.level: no is a boolean; {LEVELS}"),
        ("log: {level: INFO}", f'1: log.level: "INFO" is not allowed; {LEVELS}'),
        ("log: {format: xml}", '1: log.format: "xml" is not allowed; allowed is one of logfmt, json'),
        ("level: {counters: host}", '1: level.counters: "host" is not allowed; allowed is one of vcpu, vm, off'),
        (
            'level: {counters: "off", histograms: "off"}',
            "1: level.counters: counters and histograms are both off; allowed is one of them",
        ),
        ("reasons: {deny: HLT}", f"1: reasons.deny: is a string; allowed is a list of {REASON}"),
        ("reasons: {deny: [HLT, HLT]}", f'1: reasons.deny[1]: "HLT" is in the list already; allowed is {REASON}'),
        ("reasons: {allow: [' ']}", f'1: reasons.allow[0]: " " is not a name; allowed is {REASON}'),
        ("histogram: {classic: {factor: 8}}", f"1: histogram.classic.factor: 8 is not allowed; {FACTORS}"),
        ("histogram: {classic: {factor: '4'}}", f'1: histogram.classic.factor: "4" is a string; {FACTORS}'),
        (
            "histogram: {classic: 4}",
            "1: histogram.classic: 4 is a whole number; allowed is a mapping with factor, min, max, in_protobuf",
        ),
        (
            "histogram: {classic: {min: 20s}}",
            "1: histogram.classic.min: the range from 20s to 16s is empty; allowed is a min below the max",
        ),
        (
            "histogram: {classic: {max: 2h}}",
            '1: histogram.classic.max: "2h" is out of range; allowed is a duration from 1us to 1h',
        ),
        ("lock_file: no", f"1: lock_file: no is a boolean; {LOCK}"),
        ('lock_file: "/a\\0"', f'1: lock_file: "/a\\x00" is not an absolute path; {LOCK}'),
        ('kernel_headers: ""', f'1: kernel_headers: "" is not an absolute path; {HEADERS}'),
        ("limits: {vcpus: 65537}", f"1: limits.vcpus: 65537 is out of range; {VCPUS}"),
        ("limits: {vcpus: -1}", f"1: limits.vcpus: -1 is out of range; {VCPUS}"),
        ("limits: {vcpus: 010}", f"1: limits.vcpus: 010 is not in plain decimal; {VCPUS}"),
        ("limits: {vcpus: 4.0}", f"1: limits.vcpus: 4.0 is a number; {VCPUS}"),
        ("limits: {vcpus: !!str 4}", f'1: limits.vcpus: "4" is a string; {VCPUS}'),
        ("limits: {cells: 4095}", f"1: limits.cells: fewer cells (4095) than vCPUs (4096); {ENOUGH}"),
        ("limits:\n  cells: 9\n  vcpus: 10", f"2: limits.cells: fewer cells (9) than vCPUs (10); {ENOUGH}"),
        ("limits: {vcpus: 20000}", f"1: limits.vcpus: fewer cells (16384) than vCPUs (20000); {ENOUGH}"),
        (
            "limits: {vcpus: 20000, cells: x}",
            '1: limits.cells: "x" is a string; allowed is a whole number from 1 to 1048576',
        ),
        ("web: {listen_address: []}", f"1: web.listen_address: is empty; allowed is at least 1 of {ADDRESS}"),
        (
            "web: {listen_address: ':1'}",
            f"1: web.listen_address: is a string; allowed is a list of {ADDRESS}",
        ),
        (
            "web: {listen_address: ~}",
            f'1: web.listen_address: {NULL} [":9939"]); allowed is a list of {ADDRESS}',
        ),
        ("web: {listen_address: [~]}", f"1: web.listen_address[0]: is null; allowed is {ADDRESS}"),
        ("web: {listen_address: [[]]}", f"1: web.listen_address[0]: is a list; allowed is {ADDRESS}"),
        (
            "web: {listen_address: !!seq x}",
            f"1: web.listen_address: is of the unknown type !seq; allowed is a list of {ADDRESS}",
        ),
        (
            "linger: !!python/object/apply:os.system [x]",
            f"1: linger: is of the unknown type !python/object/apply:os.system; {DURATION}",
        ),
        ("--- {}\n--- {}", "2: a second document starts here; allowed is one"),
        (
            "a: [1\n",
            "2: not YAML: column 1: while parsing a flow sequence expected ',' or ']', but got '<stream end>'",
        ),
        ("a: b: c", "1: not YAML: column 5: mapping values are not allowed here"),
        (
            "a:\n\tb: c",
            "2: not YAML: column 1: while scanning for the next token "
            "found character '\\t' that cannot start any token",
        ),
        ('x: "\\U00110000"', "1: not YAML: chr() arg not in range(0x110000)"),
        ("x: *y", "1: not YAML: column 4: found undefined alias 'y'"),
        ("a: 1\n\x01", "2: not YAML: character U+0001 is not allowed"),
        ("a: \ud800", "1: not YAML: character U+D800 is not allowed"),
        ("limits: &a {limits: *a}", "1: limits.limits: unknown key, did you mean limits?"),
    ],
)
def test_each_problem_is_one_line_with_its_key_and_the_allowed_values(text: str, problem: str) -> None:
    assert problems(text) == (f"c.yaml:{problem}",)


def test_no_python_object_is_created(tmp_path: Path) -> None:
    trace = tmp_path / "made"
    make = f"!!python/object/apply:os.mkdir ['{trace}']"
    problems(f"linger: {make}\n? {make}\n: 1\n")
    assert not trace.exists()


def test_a_file_name_with_a_line_break_stays_on_one_line() -> None:
    with pytest.raises(ConfigError) as error:
        parse("x: 1", "a\nb.yaml")
    assert error.value.problems == (f"a\\nb.yaml:1: x: unknown key; allowed are {ALL_KEYS}",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "c.yaml:1: not YAML: column 33: nested deeper than 32"),
        ("- " * 500_000, "c.yaml:1: not YAML: column 65: nested deeper than 32"),
        ("{a: " * 100_000, "c.yaml:1: not YAML: column 126: nested deeper than 32"),
        ("a: 1\n" * 200_000, "c.yaml:2048: not YAML: column 4: more than 4096 values"),
        ("#" * (MAX_BYTES + 1), "c.yaml: larger than 1048576 bytes"),
        (
            "linger: " + "9" * 1_000_000,
            f"c.yaml:1: linger: {'9' * 64}... has no unit (fifteen seconds are 15s); {DURATION}",
        ),
        (
            "x" * 100_000,
            f'c.yaml:1: the whole file: "{"x" * 64}..." is a string; allowed is a mapping with {ALL_KEYS}',
        ),
        (f"? {'x' * 100_000}\n: 1", f"c.yaml:1: {'x' * 64}...: unknown key; allowed are {ALL_KEYS}"),
        (f"x: *{'y' * 100_000}", f"c.yaml:1: not YAML: column 4: found undefined alias '{'y' * 97}..."),
    ],
)
def test_huge_files_are_refused_quickly_and_in_short_lines(text: str, problem: str) -> None:
    start = time.monotonic()
    assert problems(text) == (problem,)
    assert time.monotonic() - start < 10  # it takes 0.5 s; without the limits, it would take minutes


def test_an_alias_bomb_is_not_expanded() -> None:
    keys = "abcdefghij"
    text = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
        f"{key}: &{key} [{', '.join(8 * ['*' + last])}]\n" for last, key in zip(keys, keys[1:])
    )
    unknown = [f"c.yaml:{line}: {key}: unknown key; allowed are {ALL_KEYS}" for line, key in enumerate(keys, 1)]
    lists = [f"c.yaml:9: web.listen_address[{i}]: is a list; allowed is {ADDRESS}" for i in range(8)]
    # The line of an item is the line of its value. If the value is an alias, it is the line of the anchor.
    assert problems(text + "web: {listen_address: *j}\n") == (*unknown[:9], *lists, unknown[9])


def problems_of(text: str) -> tuple[str, ...]:
    try:
        parse(text, "c.yaml")
    except ConfigError as error:
        return error.problems or ("no problem at all",)
    return ()


@given(st.text() | st.text(alphabet="web: limts{}[],&*!|>-'\"\\U%F\n\t#?0"))
def test_any_text_is_read_or_raises_config_error(text: str) -> None:
    assert all(problem.startswith("c.yaml:") and problem.isprintable() for problem in problems_of(text))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_raise_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        assert loaded(path).startswith(f"{path}:")
    else:
        wanted = tuple(problem.replace("c.yaml", str(path), 1) for problem in problems_of(text))
        assert (loaded(path) if wanted else "") == "\n".join(wanted)


def loaded(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        load(path)
    return str(error.value)


def test_files_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    assert (
        loaded(tmp_path / "none.yaml")
        == f"{tmp_path}/none.yaml: cannot read the configuration file: No such file or directory"
    )
    assert loaded(tmp_path) == f"{tmp_path}: cannot read the configuration file: Is a directory"
    assert loaded(Path("a\0b")) == "a\\x00b: cannot read the configuration file: embedded null byte"
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    assert loaded(loop) == f"{loop}: cannot read the configuration file: Too many levels of symbolic links"


def test_a_file_without_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "config.yaml"
    path.touch()
    monkeypatch.setattr(os, "open", refuse)
    assert loaded(path) == f"{path}: cannot read the configuration file: Permission denied"


def test_files_that_are_too_large_or_not_utf_8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"linger: 5m\nlock_file: /\xff\n")
    assert loaded(path) == f"{path}:2: not UTF-8: byte 0xff"
    path.write_bytes("linger: 5m".encode("utf-16"))
    assert loaded(path) == f"{path}:1: not UTF-8: byte 0xff"
    path.write_bytes(b"#" * 1048577)
    assert loaded(path) == f"{path}: larger than 1048576 bytes"


def test_a_valid_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes("\ufefflinger: 1m\r\nlock_file: /run/größe\r\n".encode())
    assert load(path) == Config(linger=60.0, lock_file="/run/größe")
